"""Erasures that were asked for, in PostgreSQL: one row each, which ends as a receipt that does not name the user.

The gateway that works on one says so for half a minute at a time; who finds one that nobody works on takes it over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, exists, func, insert, or_, select, union_all, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.database import Database
from services.contracts.session import SessionStatus
from services.contracts.topics import CONTROL, DEAD_LETTER_TOPICS, DELTAS, MESSAGES, RESULTS, SESSIONS, SWEEPS
from services.database.audit import USER_TARGET
from services.database.partitions import id_at
from services.database.tables import chat_sessions, conversations, erasure_requests, erasures
from services.runtime.pseudonyms import Pseudonyms

WORKED_ON = timedelta(seconds=30)
AT_ONCE = 5
"""Erasures that one gateway works on."""
PAGE = 100
"""Conversations, or sessions, whose events are published together."""
LOST_AFTER = timedelta(minutes=1)
"""What the tracker has not begun so long after it was asked is asked for again: brokers can lose records."""

_COUNTED = ("conversations", "sessions", "messages", "events")
_TOPICS = [
    topic
    for topic in (MESSAGES, RESULTS, CONTROL, SESSIONS, DELTAS, *DEAD_LETTER_TOPICS)
    if not topic.name.startswith(SWEEPS.name)
]
_asked, _done = erasure_requests.c, erasures.c
_SHOWN = [
    (USER_TARGET + _asked.user_name).label("user"),
    *(_asked[key].label(str(_asked[key].name)) for key in ("erasure_id", "requested_by", "before", "created_at")),
    _asked.finished_at.label("finishedAt"),
]
_SAME: ColumnElement[bool] = and_(_done.user_id == _asked.user_id, _done.before == _asked.before)


@dataclass(frozen=True, slots=True)
class Erasures:
    """The table of requests. Every method raises DatabaseAway while PostgreSQL is."""

    database: Database
    pseudonyms: Pseudonyms

    async def add(
        self, connection: AsyncConnection, erasure_id: UUID, user_id: str, requested_by: str, now: datetime
    ) -> None:
        """Ask for the erasure of what a user has until `now`, in the caller's transaction."""
        row = {
            "erasure_id": erasure_id,
            "user_id": user_id,
            "user_name": self.pseudonyms.of(user_id),
            "requested_by": requested_by,
            "before": now,
            "created_at": now,
        }
        await connection.execute(insert(erasure_requests).values(row))

    async def told(self, erasure_id: UUID, now: datetime) -> dict[str, Any] | None:
        """Return an erasure as it is told at `now`."""
        counts = [func.coalesce(_asked[key], _done[key], 0).label(key) for key in _COUNTED]
        statement = select(*_SHOWN, *counts).select_from(erasure_requests.outerjoin(erasures, _SAME))
        async with self.database.statements() as connection:
            found = await connection.execute(statement.where(_asked.erasure_id == erasure_id))
            row = found.mappings().one_or_none()
        return None if row is None else _told(dict(row), now)

    async def claim(self) -> Sequence[Row[Any]]:
        """Take on some of the erasures that the tracker has not been asked for, and that nobody works on."""
        free = or_(_asked.worker_until.is_(None), _asked.worker_until < func.now())
        chosen = (
            select(_asked.erasure_id)
            .where(_asked.asked_at.is_(None), _asked.finished_at.is_(None), free)
            .order_by(_asked.created_at)
            .limit(AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        claimed = update(erasure_requests).where(_asked.erasure_id.in_(chosen))
        claimed = claimed.values(worker_until=func.now() + WORKED_ON)
        async with self.database.statements() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(claimed.returning(erasure_requests))).all()
        return rows

    async def moved(self, erasure_id: UUID, position: str, asked: int) -> None:
        """Remember the last conversation whose event Kafka has acknowledged, and how many there were more."""
        values = {"position": position, "asked": _asked.asked + asked, "worker_until": func.now() + WORKED_ON}
        await self._update(erasure_id, values)

    async def all_asked(self, erasure_id: UUID) -> None:
        """Remember that Kafka has acknowledged everything; the rest is the tracker's."""
        await self._update(erasure_id, {"asked_at": func.now(), "worker_until": None})

    async def release(self, erasure_id: UUID) -> None:
        """Leave an erasure to whoever comes next."""
        await self._update(erasure_id, {"worker_until": None})

    async def settle(self) -> None:
        """Make receipts of what the tracker has finished; ask again for what it has never heard of."""
        finished = {_asked[key]: _done[key] for key in (*_COUNTED, "finished_at")}
        receipts = update(erasure_requests).values({**finished, _asked.user_id: None})
        receipts = receipts.where(_asked.finished_at.is_(None), _asked.asked_at.is_not(None), _SAME)
        lost = and_(_asked.finished_at.is_(None), _asked.asked_at < func.now() - LOST_AFTER)
        again = update(erasure_requests).values(asked_at=None, position=None, asked=0)
        async with self.database.statements() as connection:
            await connection.execute(receipts.where(_done.finished_at.is_not(None)))
            await connection.execute(again.where(lost, ~exists().where(_SAME)))

    async def conversations_after(self, user_id: str, position: str | None) -> list[str]:
        """Return the user's next conversations, those that the tracker has given to what stands for him among them."""
        owners = [user_id]
        if self.pseudonyms.stands_for(erased := self.pseudonyms.erased(user_id), user_id):
            owners.append(erased)
        pages = union_all(*(_owned(owner, position).subquery().select() for owner in owners)).subquery()
        statement = select(pages.c.conversation_id).order_by(pages.c.conversation_id).limit(PAGE)
        async with self.database.statements() as connection:
            return list(await connection.scalars(statement))

    async def active_after(self, user_id: str, before: datetime, after: UUID) -> Sequence[Row[UUID, str, str]]:
        """Return the next of the user's sessions that have not ended."""
        session = chat_sessions.c
        statement = (
            select(session.session_id, session.conversation_id, session.persona_id)
            .where(session.user_id == user_id, session.status == SessionStatus.ACTIVE)
            .where(session.session_id > after, session.session_id < id_at(before))
            .order_by(session.session_id)
            .limit(PAGE)
        )
        async with self.database.statements() as connection:
            return (await connection.execute(statement)).all()

    async def _update(self, erasure_id: UUID, values: dict[str, Any]) -> None:
        async with self.database.statements() as connection:
            await connection.execute(update(erasure_requests).where(_asked.erasure_id == erasure_id).values(values))


def _owned(owner: str, position: str | None) -> Select[Any]:
    conversation = conversations.c
    owned = select(conversation.conversation_id).where(conversation.user_id == owner)
    if position is not None:
        owned = owned.where(conversation.conversation_id > position)
    return owned.order_by(conversation.conversation_id).limit(PAGE)


def _told(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    finished_at = row["finishedAt"]
    return {
        **row,
        "state": "running" if finished_at is None else "finished",
        # Kafka deletes whole segments, each as old as the retention when it is closed.
        "remains": [{"topic": topic.name, "until": (finished_at or now) + 2 * topic.retention} for topic in _TOPICS],
    }
