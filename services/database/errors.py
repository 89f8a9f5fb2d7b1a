"""What PostgreSQL's errors look like here, and what of their words may be told."""

import asyncpg
from sqlalchemy.exc import DBAPIError

POSTGRES_ERRORS = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What any use of it may raise: while connecting, the driver's own errors come without SQLAlchemy's around them."""


def driver_error(error: BaseException) -> BaseException:
    """Return what the driver raised: SQLAlchemy wraps it twice under a statement of its own."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig


def first_words(error: BaseException) -> str:
    """Return the first line of what the driver raised: later ones hold statements, and values of rows."""
    cause = driver_error(error)
    return next(iter(str(cause).splitlines()), "") or type(cause).__name__
