"""Gauges that only PostgreSQL can tell."""

import asyncio
import logging

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.database import tables as t
from services.database.rollups import GLOBAL
from services.runtime.faults import PassingFault
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0


async def refresh_gauges(engine: AsyncEngine, metrics: TrackerMetrics) -> None:
    """Set the gauges every few seconds, for ever; while PostgreSQL is away they keep their last value."""
    rollups = t.session_rollups.c
    ended = rollups.completed + rollups.failed + rollups.timeout + rollups.cancelled
    totals = select(func.sum(rollups.active), func.sum(rollups.completed), func.sum(rollups.active + ended)).where(
        rollups.scope == GLOBAL
    )
    while True:
        try:
            with postgres_faults():
                async with engine.connect() as connection:
                    active, completed, total = (await connection.execute(totals)).one()
        except PassingFault as fault:
            logger.info("The gauges are not refreshed: %s", fault)
        else:
            metrics.active.set(active or 0)
            metrics.success_ratio.set(completed / total if total else 0)
        await asyncio.sleep(REFRESH_SECONDS)
