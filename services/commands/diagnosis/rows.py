"""Reads what PostgreSQL knows of a session."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.commands.diagnosis.facts import Entry, Persona, Tracked
from services.commands.wording import utc
from services.contracts.session import SessionStatus
from services.contracts.topics import GROUP_TOPICS, PARTITIONS, TRACKER_GROUP
from services.database import tables as t
from services.database.engine import build_engine
from services.database.errors import POSTGRES_ERRORS, first_words
from services.database.partitions import month_of
from services.runtime.placement import partition_of
from services.runtime.settings import PostgresSettings

MOST_EVENTS = 500
_STATEMENT_MS = 5_000
_KEY_WITHIN = timedelta(minutes=1)
"""An Idempotency-Key is written down when its session's id is made."""
_HIDDEN = {"message", "metadata", "reply"}
"""What the user and the persona wrote, or may have."""
_COLUMNS = (
    "conversation_id",
    "persona_id",
    "started_at",
    "ended_at",
    "last_activity_at",
    "attempts",
    "response_ms",
    "failure_kind",
    "error_message",
    "deadline_at",
    "trace_id",
)


class PostgresSilent(Exception):
    """PostgreSQL does not tell; the text is its own words."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the tables say."""

    tracked: Tracked | None
    timeline: list[Entry]
    persona: Persona | None
    waits_behind: UUID | None
    acknowledged_at: datetime | None
    asked: bool
    month_dropped: bool
    folded_up_to: datetime | None
    """Up to when the session's partition is folded, or all of them where the session is not known."""


async def read_rows(settings: PostgresSettings, session_id: UUID, id_time: datetime) -> Rows:
    """Return what is known of the session; PostgresSilent where that cannot be read."""
    engine = build_engine(settings.database_url.get_secret_value(), pool_size=1, statement_timeout_ms=_STATEMENT_MS)
    try:
        async with engine.connect() as connection:
            return await _read(connection, session_id, id_time)
    except POSTGRES_ERRORS as error:
        raise PostgresSilent(first_words(error)) from error
    finally:
        await engine.dispose()


async def _read(connection: AsyncConnection, session_id: UUID, id_time: datetime) -> Rows:
    tracked = await _tracked(connection, session_id)
    key = t.idempotency_keys.c
    near = key.created_at.between(id_time - _KEY_WITHIN, id_time + _KEY_WITHIN)
    keys = (await connection.execute(select(key.published_at).where(near, key.session_id == session_id))).all()
    dropped = await connection.scalar(select(func.max(t.dropped_months.c.month)))
    return Rows(
        tracked=tracked,
        timeline=await _timeline(connection, session_id),
        persona=None if tracked is None else await _persona(connection, tracked.persona_id),
        waits_behind=None if tracked is None else await _earlier(connection, session_id, tracked.conversation_id),
        acknowledged_at=next((row.published_at for row in keys if row.published_at is not None), None),
        asked=bool(keys),
        month_dropped=dropped is not None and month_of(session_id) <= dropped,
        folded_up_to=await _folded_up_to(connection, tracked),
    )


async def _tracked(connection: AsyncConnection, session_id: UUID) -> Tracked | None:
    query = select(t.chat_sessions).where(t.chat_sessions.c.session_id == session_id)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        return None
    columns: dict[str, Any] = {name: row[t.chat_sessions.c[name]] for name in _COLUMNS}
    status = SessionStatus(row[t.chat_sessions.c.status])
    return Tracked(status=status, **columns)


async def _timeline(connection: AsyncConnection, session_id: UUID) -> list[Entry]:
    event = t.session_events.c
    query = select(event.type, event.occurred_at, event.late, event.body).where(event.session_id == session_id)
    rows = await connection.execute(query.order_by(event.occurred_at, event.event_id).limit(MOST_EVENTS))
    return [_entry(row.type, row.occurred_at, row.late, row.body or {}) for row in rows]


def _entry(kind: str, at: datetime, late: bool, body: Mapping[str, object]) -> Entry:
    shown = {name: value for name, value in body.items() if name not in _HIDDEN}
    return {**shown, "type": kind, "at": utc(at), "late": late}


async def _persona(connection: AsyncConnection, persona_id: str) -> Persona | None:
    persona = t.personas.c
    query = select(persona.paused, persona.deadline_seconds).where(persona.persona_id == persona_id)
    row = (await connection.execute(query)).first()
    return None if row is None else Persona(row.paused, row.deadline_seconds)


async def _earlier(connection: AsyncConnection, session_id: UUID, conversation_id: str) -> UUID | None:
    """Return the first of the conversation's earlier sessions that a dispatcher has still to do with."""
    session = t.chat_sessions.c
    query = select(session.session_id).where(
        session.conversation_id == conversation_id,
        session.status == SessionStatus.ACTIVE,
        session.session_id < session_id,
        session.deadline_at.is_(None),  # what its workflow has accepted holds nobody up
    )
    first: UUID | None = await connection.scalar(query.order_by(session.session_id).limit(1))
    return first


async def _folded_up_to(connection: AsyncConnection, tracked: Tracked | None) -> datetime | None:
    progress = t.fold_progress.c
    query = select(func.min(progress.folded_up_to), func.count())
    if tracked is not None:
        query = query.where(progress.partition == partition_of(tracked.conversation_id))
    oldest, known = (await connection.execute(query)).one()
    every = len(GROUP_TOPICS[TRACKER_GROUP]) * (1 if tracked is not None else PARTITIONS)
    return oldest if known >= every else None
