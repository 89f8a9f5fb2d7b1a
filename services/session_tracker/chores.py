"""What a tracker does now and then for the life of its data, for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.runtime.faults import PassingFault

logger = logging.getLogger(__name__)

HOUR_SECONDS = 3600.0
RETRY_SECONDS = 5.0


async def hourly(work: Callable[[datetime], Awaitable[None]], what: str) -> None:
    """Do the work now and every hour, as `regularly` does."""
    await regularly(HOUR_SECONDS, work, what)


async def regularly(seconds: float, work: Callable[[datetime], Awaitable[None]], what: str) -> None:
    """Do the work now and again `seconds` after it is done, telling it the time; after a passing fault in 5 s."""
    while True:
        try:
            await work(datetime.now(UTC))
        except PassingFault as fault:
            logger.warning("%s has to wait: %s", what, fault, extra={"fault": what})
            await asyncio.sleep(RETRY_SECONDS)
        else:
            await asyncio.sleep(seconds)


@asynccontextmanager
async def only_here(engine: AsyncEngine, lock: int) -> AsyncIterator[AsyncConnection | None]:
    """Lend a connection that commits each statement by itself; None while another process has one for this lock.

    It is closed afterwards, and its settings with it.
    """
    # The lock is the session's, not a transaction's: an open one would hold vacuum back for as long as the work takes.
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        if not await connection.scalar(select(func.pg_try_advisory_lock(lock))):
            yield None
            return
        try:
            yield connection
        finally:
            if not connection.invalidated:
                await connection.execute(select(func.pg_advisory_unlock(lock)))
            await connection.invalidate()
