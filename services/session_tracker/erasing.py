"""Takes erased users' data out of what was folded before: sessions by sessions, each chunk a short transaction."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, delete, func, literal, null, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts.topics import TRACKER_GROUP
from services.database import tables as t
from services.database.audit import USER_TARGET, ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.partitions import id_at
from services.database.rollup_days import OF_DAYS, days_until
from services.database.rollups import MERGED_SHARD, Granularity, bucket_of, user_scope
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker.audit import write_audit
from services.session_tracker.chores import only_here
from services.session_tracker.counts import Counts, RollupKey, renamed
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.rows import counts_of, session_of
from services.session_tracker.store import driver_within, write_counts

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
CHUNK = 200
"""Sessions, or conversations, in one transaction."""
REST = 3.0
"""How long it rests after a transaction, as a multiple of its time: the fold needs the machine."""
_LOCK = 0x6572_6173  # "eras": one tracker at a time

_ERASURE, _SESSION, _ROLLUP = t.erasures.c, t.chat_sessions.c, t.session_rollups.c


@dataclass(frozen=True, slots=True)
class Erasure:
    """Whose data is erased: of sessions that began before `before`. `erased_id` stands for the user from then on."""

    user_id: str
    before: datetime
    begun_at: datetime
    erased_id: str


class Erasing:
    """Works on erasures that are not finished, the oldest first.

    Where it stands is what is left: a session that is done is no longer the user's. So a crash repeats nothing.
    """

    def __init__(self, engine: AsyncEngine, pseudonyms: Pseudonyms, metrics: TrackerMetrics) -> None:
        self._engine = engine
        self._pseudonyms = pseudonyms
        self._metrics = metrics

    async def run(self, now: datetime) -> None:
        """Finish every erasure that has begun, unless another process is at it. Raises PassingFault."""
        with postgres_faults():
            unfinished = await self._unfinished()
            if unfinished:
                async with only_here(self._engine, _LOCK) as guard:
                    for erasure in await self._unfinished() if guard is not None else ():
                        await self._erase(erasure)
                unfinished = await self._unfinished()
        self._metrics.erasures_open.set(len(unfinished))

    async def _unfinished(self) -> list[Erasure]:
        statement = select(_ERASURE.user_id, _ERASURE.before, _ERASURE.begun_at)
        statement = statement.where(_ERASURE.finished_at.is_(None)).order_by(_ERASURE.begun_at)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(statement)).all()
        return [Erasure(*row, self._pseudonyms.erased(row[0])) for row in rows]

    async def _erase(self, erasure: Erasure) -> None:
        after: UUID | None = UUID(int=0)
        while after is not None:
            async with _resting():
                after = await self._erase_sessions(erasure, after)
        changed = CHUNK
        while changed == CHUNK:
            async with _resting():
                changed = await self._erase_conversations(erasure)
        await self._finish(erasure)

    async def _finish(self, erasure: Erasure) -> None:
        async with self._engine.begin() as connection:
            await _rename_days(connection, erasure)
            done = _of(erasure).values(finished_at=func.now()).returning(*(_ERASURE[key] for key in _COUNTED))
            counts = dict(zip(_COUNTED, (await connection.execute(done)).one(), strict=True))
            target = f"{USER_TARGET}{self._pseudonyms.of(erasure.user_id)}"
            details = {"before": erasure.before.isoformat(), **counts}
            told = entry(ActorKind.SYSTEM, TRACKER_GROUP, Action.USER_ERASE, target, Outcome.ERASED, details=details)
            await write_audit(await driver_within(connection), [told])
        logger.info("A user's data is erased: %s.", counts)

    async def _erase_sessions(self, erasure: Erasure, after: UUID) -> UUID | None:
        """Erase the next sessions; return the last of them, None where there were none."""
        async with self._engine.begin() as connection:
            # The order of the fold: sessions, what belongs to them, rollups.
            sessions = [session_of(row) for row in (await connection.execute(_next(erasure, after))).mappings()]
            if not sessions:
                return None
            ids = literal([session.session_id for session in sessions], ARRAY(Uuid))
            nobodys: dict[Any, Any] = {
                _SESSION.user_id: erasure.erased_id,
                _SESSION.metadata: {},
                _SESSION.error_message: None,
            }
            await connection.execute(
                update(t.chat_sessions).where(_SESSION.session_id == func.any(ids)).values(nobodys)
            )
            content, body = t.messages.c.content, t.session_events.c.body
            texts = update(t.messages).where(t.messages.c.chat_session_id == func.any(ids), content.is_not(None))
            bodies = update(t.session_events).where(t.session_events.c.session_id == func.any(ids), body.is_not(None))
            messages = (await connection.execute(texts.values({content: None}))).rowcount
            events = (await connection.execute(bodies.values({body: null()}))).rowcount
            await write_counts(await driver_within(connection), renamed(sessions, erasure.erased_id))
            await _count(connection, erasure, sessions=len(sessions), messages=messages, events=events)
        self._metrics.erased.inc(len(sessions))
        return sessions[-1].session_id

    async def _erase_conversations(self, erasure: Erasure) -> int:
        """Give the next conversations to what stands for the user; return how many."""
        conversation = t.conversations.c
        some = select(conversation.conversation_id).where(
            conversation.user_id == erasure.user_id, conversation.created_at < erasure.begun_at
        )
        chosen = some.order_by(conversation.conversation_id).limit(CHUNK).scalar_subquery()
        given = update(t.conversations).where(conversation.conversation_id == func.any(func.array(chosen)))
        async with self._engine.begin() as connection:
            changed = (await connection.execute(given.values({conversation.user_id: erasure.erased_id}))).rowcount
            await _count(connection, erasure, conversations=changed)
        return changed


@asynccontextmanager
async def _resting() -> AsyncIterator[None]:
    """Rest after what is done within."""
    began = time.monotonic()
    yield
    await asyncio.sleep((time.monotonic() - began) * REST)


_COUNTED = ("conversations", "sessions", "messages", "events")


def _of(erasure: Erasure) -> Any:
    mine = _ERASURE.user_id == erasure.user_id, _ERASURE.before == erasure.before
    return update(t.erasures).where(*mine)


async def _count(connection: AsyncConnection, erasure: Erasure, **counts: int) -> None:
    more = {_ERASURE[key]: _ERASURE[key] + count for key, count in counts.items()}
    await connection.execute(_of(erasure).values(more))


def _next(erasure: Erasure, after: UUID) -> Any:
    session_id = _SESSION.session_id
    mine = select(*(column.label(column.key) for column in t.chat_sessions.columns)).where(
        _SESSION.user_id == erasure.user_id, session_id > after, session_id < id_at(erasure.before)
    )
    return mine.order_by(session_id).limit(CHUNK).with_for_update(key_share=True)


async def _rename_days(connection: AsyncConnection, erasure: Erasure) -> None:
    """Count for what stands for the user what the rollups still count for him up to the day of the erasure.

    That is of months that retention has dropped. On that day itself he may have had sessions since.
    """
    last = bucket_of(erasure.before, Granularity.DAY)
    merged: dict[RollupKey, Counts] = {}
    for row in await _taken_days(connection, user_scope(erasure.user_id), last):
        user_id = erasure.erased_id if row.bucket < last else erasure.user_id
        key = RollupKey(Granularity.DAY, row.bucket, user_scope(user_id), MERGED_SHARD)
        merged[key] = merged.get(key, Counts()) + counts_of(row)
    await write_counts(await driver_within(connection), {key: counts for key, counts in merged.items() if counts})


async def _taken_days(connection: AsyncConnection, scope: str, last: datetime) -> Sequence[Row[Any]]:
    """Remove a user's rollups up to a day, and return them."""
    theirs = OF_DAYS, _ROLLUP.bucket.in_(days_until(last)), _ROLLUP.scope == scope
    taken = delete(t.session_rollups).where(*theirs)
    return (await connection.execute(taken.returning(*_ROLLUP))).all()
