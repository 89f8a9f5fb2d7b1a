"""Gauges that only PostgreSQL can tell."""

import asyncio
import logging
from datetime import UTC, datetime

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.database import tables as t
from services.database.partitions import room_until
from services.database.rollup_days import OF_DAYS, days_until
from services.database.rollups import GLOBAL, Granularity
from services.runtime.faults import PassingFault
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.timeouts import REQUESTED_BY

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0


async def refresh_gauges(engine: AsyncEngine, metrics: TrackerMetrics) -> None:
    """Set the gauges every few seconds, for ever; while PostgreSQL is away they keep their last value."""
    totals = _totals()
    while True:
        try:
            with postgres_faults():
                async with engine.connect() as connection:
                    active, completed, total = (await connection.execute(totals)).one()
                    folded, swept = await connection.scalar(_FOLDED), await connection.scalar(_SWEPT)
                    room = await room_until(connection, datetime.now(UTC))
        except PassingFault as fault:
            logger.info("The gauges are not refreshed: %s", fault)
        else:
            metrics.active.set(active or 0)
            metrics.success_ratio.set(completed / total if total else 0)
            metrics.last_sweep.set(swept.timestamp() if swept else 0)
            metrics.partitions_until.set(room.timestamp())
            if folded is not None:
                metrics.folded_up_to.set(folded.timestamp())
        await asyncio.sleep(REFRESH_SECONDS)


_FOLDED = select(func.min(t.fold_progress.c.folded_up_to))
_SWEPT = select(func.max(t.sweeps.c.as_of)).where(
    t.sweeps.c.requested_by == REQUESTED_BY, t.sweeps.c.finished_at.is_not(None)
)


def _totals() -> Select[int, int, int]:
    """Return the query of ACTIVE, COMPLETED and all sessions there have ever been."""
    rollups = t.session_rollups.c
    ended = rollups.completed + rollups.failed + rollups.timeout + rollups.cancelled
    days = days_until(func.now() + Granularity.DAY.length)
    return select(func.sum(rollups.active), func.sum(rollups.completed), func.sum(rollups.active + ended)).where(
        OF_DAYS, rollups.bucket.in_(days), rollups.scope == GLOBAL
    )
