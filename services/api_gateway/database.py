"""The gateway's connections to PostgreSQL, and what it means when there are none."""

import asyncio
import contextlib
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
from services.runtime.faults import PassingFault

if TYPE_CHECKING:
    from asyncpg import Connection, Record

LENT_AT_ONCE = 10
"""Connections; the engine's pool has as many."""
TURN_SECONDS = 10.0
SQLSTATES_OF_ABSENCE = ("08", "25006", "28", "3D", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE, and one SQLSTATE: connections lost or refused, a server that only reads, transactions that met
others, resources exhausted or in no state to be used, an operator stepping in, and a system that fails."""


# Of statements, of connecting on the driver's own connection, and of the driver itself.
_INTERFACE_ERRORS = (InterfaceError, Driver.InterfaceError, asyncpg.InterfaceError)
_STOPPED = "57014"
"""The SQLSTATE of a statement that was stopped, as `statement_timeout` does."""


class DatabaseAway(PassingFault):
    """PostgreSQL cannot be asked at the moment."""


class StatementStopped(DatabaseAway):
    """PostgreSQL worked on a statement for too long and stopped it: the same again is likely to end alike."""


class Database:
    """Connections that tell an absent PostgreSQL from a wrong statement."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use an engine without pre-ping: here no connection is lent that the server has closed."""
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        self._engine = engine
        # The pool lends a connection to whoever asks at the right moment, so under load some would wait for seconds.
        self._turns = asyncio.Semaphore(LENT_AT_ONCE)
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def fetch(self, statement: Statement, **values: Any) -> "list[Record]":
        """Return the rows of one statement, a transaction by itself; raise DatabaseAway where there are none to be had.

        It runs on the driver's own connection: with SQLAlchemy's around it, reading a row takes twice the CPU.
        """
        with _faults():
            async with self._turn():
                lent = await self._engine.raw_connection()
                try:
                    driver: Connection[Record] = lent.driver_connection  # type: ignore[assignment]
                    return await driver.fetch(statement.sql, *statement.arguments(values))
                except asyncio.CancelledError:
                    # Between two of the driver's messages PostgreSQL waits for the rest, its locks held.
                    await greenlet_spawn(lent.invalidate)
                    raise
                finally:
                    await greenlet_spawn(lent.close)

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection on which each statement is a transaction; raise DatabaseAway where there is none."""
        with _faults():
            async with self._turn(), self._autocommit.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for one transaction, committed at the end; raise DatabaseAway where there is none."""
        with _faults():
            async with self._turn(), self._engine.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, first come, first served; raise TimeoutError where it does not come in time."""
        async with asyncio.timeout(TURN_SECONDS):
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()


def _refuse_closed(connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # The driver knows that its connection ended; a ping would ask the server, three round trips each time.
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError("PostgreSQL has closed this connection.")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
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
