"""Forgets whole months once every session in them is older than the operator wants to keep."""

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from sqlalchemy import exists, func, insert, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.database import tables as t
from services.database.audit import ActorKind, entry
from services.database.audit_partitions import drop_audit_partitions
from services.database.audit_words import Action, Outcome
from services.database.partitions import drop_partitions, existing_months, first_id, next_month, record_dropped
from services.session_tracker.chores import only_here
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics

logger = logging.getLogger(__name__)

ACTOR = "retention"
_LOCK = 0x7265_7465  # "rete": one tracker at a time drops months


def due_months(months: Iterable[datetime], now: datetime, keep: timedelta) -> Iterator[datetime]:
    """Yield the months, oldest first, whose last session started at least `keep` before `now`."""
    return (month for month in sorted(months) if next_month(month) <= now - keep)


class Retention:
    """Drops months: their messages, their events and their sessions. Statistics stay."""

    def __init__(self, engine: AsyncEngine, metrics: TrackerMetrics, *, keep: timedelta) -> None:
        self._engine = engine
        self._metrics = metrics
        self._keep = keep

    async def drop_due(self, now: datetime) -> None:
        """Drop every month that is due, unless another process is at it; oldest first.

        A month with ACTIVE sessions keeps itself and those after it: a sweep ends them first. What a crash left half
        dropped is finished. Raises PassingFault where PostgreSQL is not to be had or a table was busy.
        """
        with postgres_faults():
            async with only_here(self._engine, _LOCK) as connection:
                if connection is not None:
                    await self._drop_due(connection, now)

    async def _drop_due(self, connection: AsyncConnection, now: datetime) -> None:
        dropped = await connection.scalar(select(func.max(t.dropped_months.c.month)))
        months = await existing_months(connection)
        due = list(due_months(months, now, self._keep))
        begun = [month for month in months if dropped is not None and month <= dropped]
        kept = await _first_active(connection, [month for month in due if month not in begun])
        self._metrics.months_overdue.set(sum(1 for month in due if kept is not None and month >= kept))
        for month in sorted({*begun, *(month for month in due if kept is None or month < kept)}):
            await self._drop(connection, month)

    async def _drop(self, connection: AsyncConnection, month: datetime) -> None:
        logger.info("Dropping the sessions of %s: none is younger than %d days.", f"{month:%Y-%m}", self._keep.days)
        await record_dropped(connection, month)
        await drop_partitions(connection, month)
        await connection.execute(insert(t.audit_log), _dropped(f"{month:%Y-%m}", self._keep))
        self._metrics.months_dropped.inc()
        logger.info("The sessions of %s are dropped.", f"{month:%Y-%m}")


class AuditRetention:
    """Drops months of the audit log; that a month was dropped stays in it."""

    def __init__(self, engine: AsyncEngine, *, keep: timedelta) -> None:
        self._engine = engine
        self._keep = keep

    async def drop_due(self, now: datetime) -> None:
        """Drop every month whose last entry is at least `keep` old. Raises PassingFault as Retention does."""
        with postgres_faults():
            async with self._engine.begin() as connection:
                for month in await drop_audit_partitions(connection, now - self._keep):
                    logger.info("Dropped the audit log of %s.", f"{month:%Y-%m}")
                    await connection.execute(insert(t.audit_log), _dropped(f"audit_log {month:%Y-%m}", self._keep))


async def _first_active(connection: AsyncConnection, months: list[datetime]) -> datetime | None:
    """Return the first of the months that has a session which did not end."""
    session = t.chat_sessions.c
    for month in months:
        active = exists().where(
            session.status == literal_column("'ACTIVE'"),
            session.session_id >= first_id(month),
            session.session_id < first_id(next_month(month)),
        )
        if await connection.scalar(select(active)):
            logger.warning("%s is not dropped yet: sessions in it are ACTIVE; a sweep ends them.", f"{month:%Y-%m}")
            return month
    return None


def _dropped(what: str, keep: timedelta) -> dict[str, object]:
    details = {"retentionDays": keep.days}
    return entry(ActorKind.SYSTEM, ACTOR, Action.RETENTION_DROP, what, Outcome.DROPPED, details=details)
