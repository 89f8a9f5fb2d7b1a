"""Sorts what PostgreSQL raises into passing faults and refused content."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.database.errors import driver_error
from services.runtime.faults import PassingFault


class RefusedByPostgres(Exception):
    """PostgreSQL does not take the content of this batch: at least one of its events is to blame."""


class PostgresAway(PassingFault):
    """PostgreSQL is out of reach, restarting, not migrated, or chose this transaction to break a deadlock."""


_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.OperatorInterventionError,  # shutdown, cancelled statement
    asyncpg.InsufficientResourcesError,  # disk, memory, connections
    asyncpg.ObjectNotInPrerequisiteStateError,  # lock not available
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    PoolTimeoutError,
    OSError,
)
_REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.RaiseError,
)
_NOT_MIGRATED = asyncpg.UndefinedTableError


@contextmanager
def postgres_faults() -> Iterator[None]:
    """Raise PostgresAway or RefusedByPostgres for the driver's errors; anything else passes as it is: a bug."""
    try:
        yield
    except (DBAPIError, *_REFUSED, *_AWAY, _NOT_MIGRATED) as error:
        fault = _fault(driver_error(error))
        if fault is None:
            raise
        raise fault from error


def _fault(error: BaseException) -> Exception | None:
    if isinstance(error, _REFUSED):  # before _AWAY: asyncpg's own DataError for arguments is an InterfaceError as well
        return RefusedByPostgres(f"PostgreSQL refused it: {_told(error)}.")
    if isinstance(error, _AWAY):
        return PostgresAway(f"PostgreSQL is not available: {_told(error)}.")
    if isinstance(error, _NOT_MIGRATED):
        return PostgresAway(f"The database lacks tables; run `chat-sessions migrate`: {_told(error)}.")
    return None


def _told(error: object) -> str:
    # The first line names the rule; later ones can carry values of the row.
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
