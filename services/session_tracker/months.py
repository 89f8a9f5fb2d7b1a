"""Keeps the monthly partitions ahead of the sessions."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.database.partitions import create_partitions, month_of, next_month
from services.session_tracker.faults import postgres_faults

MONTHS_AHEAD = 2


class Months:
    """Knows which months have their partitions, and makes those that are missing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: set[datetime] = set()

    async def ensure(self, session_id: UUID) -> None:
        """Return once the session's month has its partitions.

        Raises DroppedMonth where retention has dropped it, PassingFault where PostgreSQL is not to be had.
        """
        month = month_of(session_id)
        if month not in self._known:
            await self._create(month)

    def forget(self) -> None:
        """Look at every month anew: retention, in any process, may have dropped some."""
        self._known.clear()

    async def make_ahead(self, now: datetime) -> None:
        """Make the partitions of this month and of the next ones. Raises PassingFault as ensure() does."""
        month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        for _ in range(MONTHS_AHEAD + 1):
            await self._create(month)
            month = next_month(month)

    async def _create(self, month: datetime) -> None:
        with postgres_faults():
            async with self._engine.begin() as connection:
                await create_partitions(connection, month)
        self._known.add(month)
