"""Takes personal data out of the metadata of sessions, and of their events, that have come of age."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, cast, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.database import tables as t
from services.database.partitions import id_at
from services.session_tracker.chores import only_here
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.personal import PERSONAL_KEYS

logger = logging.getLogger(__name__)

CHUNK = 500
"""Sessions in one transaction."""
PAUSE_SECONDS = 0.05
"""Between two transactions, which leaves the disk and the processor to the fold."""
TASK = "anonymisation"
_LOCK = 0x616E_6F6E  # "anon": one tracker at a time

_METADATA = cast(literal(["metadata"], ARRAY(Text)), ARRAY(Text))
_KEYS = cast(literal(list(PERSONAL_KEYS), ARRAY(Text)), ARRAY(Text))


class Anonymisation:
    """Walks through the sessions by age, once, and remembers how far it has come."""

    def __init__(self, engine: AsyncEngine, metrics: TrackerMetrics, *, keep: timedelta) -> None:
        self._engine = engine
        self._metrics = metrics
        self._keep = keep

    async def run(self, now: datetime) -> None:
        """Anonymise every session that started at least `keep` before `now`, unless another process is at it.

        Each chunk is a short transaction with its progress, so that a crash repeats nothing. Raises PassingFault.
        """
        before = id_at(now - self._keep)
        with postgres_faults():
            async with only_here(self._engine, _LOCK) as guard:
                more = guard is not None
                while more:
                    more = await self._chunk(before)
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _chunk(self, before: UUID) -> bool:
        """Anonymise the next sessions; False where there are none before `before`."""
        async with self._engine.begin() as connection:
            after = await connection.scalar(
                select(t.maintenance_progress.c.done_up_to).where(t.maintenance_progress.c.task == TASK)
            )
            ids = await _next_ids(connection, after or UUID(int=0), before)
            if not ids:
                return False
            changed = await _strip(connection, ids)
            done = insert(t.maintenance_progress).values(task=TASK, done_up_to=ids[-1])
            await connection.execute(
                done.on_conflict_do_update(
                    index_elements=[t.maintenance_progress.c.task],
                    set_={t.maintenance_progress.c.done_up_to: done.excluded.done_up_to},
                )
            )
        self._metrics.anonymised.inc(changed)
        if changed:
            logger.info("Took personal data out of %d sessions, up to %s.", changed, ids[-1])
        return True


async def _next_ids(connection: AsyncConnection, after: UUID, before: UUID) -> list[UUID]:
    session_id = t.chat_sessions.c.session_id
    following = select(session_id).where(session_id > after, session_id < before).order_by(session_id).limit(CHUNK)
    return list(await connection.scalars(following))


async def _strip(connection: AsyncConnection, ids: list[UUID]) -> int:
    """Remove the personal keys from sessions, then from their events; return how many sessions had some."""
    sessions, events = t.chat_sessions.c, t.session_events.c
    stripped = await connection.execute(
        update(t.chat_sessions)
        .values({sessions.metadata: _without_personal(sessions.metadata)})
        .where(sessions.session_id.between(ids[0], ids[-1]), _has_personal(sessions.metadata))
    )
    metadata = events.body["metadata"]
    stripped_body = func.jsonb_set(events.body, _METADATA, _without_personal(metadata))
    await connection.execute(
        update(t.session_events)
        .values({events.body: stripped_body})
        .where(events.session_id.between(ids[0], ids[-1]), _has_personal(metadata))
    )
    return stripped.rowcount


def _without_personal(metadata: ColumnElement[Any]) -> ColumnElement[Any]:
    return metadata.op("-", return_type=JSONB())(_KEYS)


def _has_personal(metadata: ColumnElement[object]) -> ColumnElement[bool]:
    return func.jsonb_exists_any(metadata, _KEYS)
