"""Keeps the monthly partitions ahead of the sessions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.database.audit_partitions import create_audit_partition
from services.database.partitions import create_partitions, month_of, months_ahead
from services.session_tracker.faults import postgres_faults


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
        """Make the partitions of this month and of the next ones, the audit log's among them.

        Raises PassingFault as ensure() does.
        """
        for month in months_ahead(now):
            await self._create(month)
            with postgres_faults():
                async with self._engine.begin() as connection:
                    await create_audit_partition(connection, month)

    async def _create(self, month: datetime) -> None:
        with postgres_faults():
            async with self._engine.begin() as connection:
                await create_partitions(connection, month)
        self._known.add(month)
