"""The gateway's connections to PostgreSQL, and what it means when there are none."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi as Driver
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from services.database.driver import Statement
from services.database.errors import driver_error
from services.runtime.faults import PassingFault
from services.runtime.time_limits import TimeLimit, Watch

if TYPE_CHECKING:
    from asyncpg import Connection, Record

logger = logging.getLogger(__name__)

LENT_AT_ONCE = 10
"""Connections; the engine's pool has as many."""
REACH_SECONDS = 5.0
"""How long a connection may take to be had: one's turn, and PostgreSQL's answer to a new one."""
SQLSTATES_OF_ABSENCE = ("08", "25006", "28", "3D", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE, and one SQLSTATE: connections lost or refused, a server that only reads, transactions that met
others, resources exhausted or in no state to be used, an operator stepping in, and a system that fails."""


# Of statements, of connecting on the driver's own connection, and of the driver itself.
_INTERFACE_ERRORS = (InterfaceError, Driver.InterfaceError, asyncpg.InterfaceError)
_ANSWERS = ("25006", "40", "55P03")
"""Of them those of a server that is there: it only reads, or a transaction met another."""
_STOPPED = "57014"
"""The SQLSTATE of a statement that was stopped, as `statement_timeout` does."""


class DatabaseAway(PassingFault):
    """PostgreSQL cannot be asked at the moment."""


class StatementStopped(DatabaseAway):
    """PostgreSQL worked on a statement for too long and stopped it: the same again is likely to end alike."""


class Database:
    """Connections that tell an absent PostgreSQL from a wrong statement, and log when it goes and comes back.

    Nobody waits for one for more than 5 s; how long a statement may take is the engine's to say.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Use an engine without pre-ping: here no connection is lent that the server has closed."""
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        self._engine = engine
        # The pool lends a connection to whoever asks at the right moment, so under load some would wait for seconds.
        self._turns = asyncio.Semaphore(LENT_AT_ONCE)
        self._watch = Watch()
        self._trouble: str | None = None
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def fetch(self, statement: Statement, **values: Any) -> "list[Record]":
        """Return the rows of one statement, a transaction by itself; raise DatabaseAway where there are none to be had.

        It runs on the driver's own connection: with SQLAlchemy's around it, reading a row takes twice the CPU.
        """
        with self._watched(), TimeLimit(self._watch, REACH_SECONDS) as limit:
            async with self._turns:
                lent = await self._engine.raw_connection()
                limit.lift()
                try:
                    driver: Connection[Record] = lent.driver_connection  # type: ignore[assignment]
                    return await driver.fetch(statement.sql, *statement.arguments(values))
                except (asyncio.CancelledError, TimeoutError):
                    # Between two of the driver's messages PostgreSQL waits for the rest, its locks held.
                    await greenlet_spawn(lent.invalidate)
                    raise
                finally:
                    await greenlet_spawn(lent.close)

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection on which each statement is a transaction; raise DatabaseAway where there is none."""
        with self._watched(), TimeLimit(self._watch, REACH_SECONDS) as limit:
            async with self._turns, self._autocommit.connect() as connection:
                limit.lift()
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for one transaction, committed at the end; raise DatabaseAway where there is none."""
        with self._watched(), TimeLimit(self._watch, REACH_SECONDS) as limit:
            async with self._turns, self._engine.begin() as connection:
                limit.lift()
                yield connection

    def note(self) -> str | None:
        """Return why PostgreSQL could not be asked the last time; None if it could."""
        return self._trouble

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Notice and log whether PostgreSQL answers what is asked within; raise as `_faults` does."""
        try:
            with _faults():
                yield
        except DatabaseAway as error:
            if not _has_answered(error):
                self._told(error)
            raise
        if self._trouble is not None:
            self._trouble = None
            logger.info("PostgreSQL answers again.")

    def _told(self, error: DatabaseAway) -> None:
        if self._trouble is None:
            logger.warning("PostgreSQL does not answer: %s. Trying again until it does.", _kind(error))
        self._trouble = f"PostgreSQL does not answer: {_kind(error)}. Messages are accepted meanwhile."


def _has_answered(error: DatabaseAway) -> bool:
    """Tell whether PostgreSQL is there all the same, and has only refused this."""
    cause = error.__cause__
    if isinstance(error, StatementStopped):
        return True
    if not isinstance(cause, DBAPIError | Driver.Error | asyncpg.PostgresError):
        return False
    return _sqlstate(cause).startswith(_ANSWERS)


def _kind(error: DatabaseAway) -> str:
    # The class alone: an error's words may hold addresses and values.
    return type(driver_error(error.__cause__ or error)).__name__


def _refuse_closed(connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # The driver knows that its connection ended; a ping would ask the server, three round trips each time.
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError("PostgreSQL has closed this connection.")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Raise DatabaseAway or StatementStopped for what passes by itself; anything else passes through: a bug."""
    try:
        yield
    except (PoolTimeoutError, OSError, TimeoutError, *_INTERFACE_ERRORS) as error:
        raise DatabaseAway("PostgreSQL cannot be reached at the moment; try again.") from error
    except (DBAPIError, Driver.Error, asyncpg.PostgresError) as error:
        state = _sqlstate(error)
        if state == _STOPPED:
            raise StatementStopped(
                "PostgreSQL took too long and was stopped: ask for less, such as a shorter range."
            ) from error
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if not lost and not state.startswith(SQLSTATES_OF_ABSENCE):
            raise
        raise DatabaseAway("PostgreSQL does not answer at the moment; try again.") from error


def _sqlstate(error: DBAPIError | Driver.Error | asyncpg.PostgresError) -> str:
    # While connecting, the driver's own errors come without SQLAlchemy's around them.
    return getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None) or ""
