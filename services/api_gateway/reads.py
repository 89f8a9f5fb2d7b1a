"""Sessions as the tracker committed them. Every query names the user whose sessions they are, or is an admin's."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.listing import CAP, Filters, Page
from services.contracts.session import MessageRole, SessionStatus
from services.database.partitions import id_at
from services.database.tables import chat_sessions, messages, session_events

Json = dict[str, Any]

MAX_TIMELINE = 1_000

_SESSION = [column.label(column.name) for column in chat_sessions.c]
_IDENTITY = {"eventId", "sessionId", "conversationId", "personaId", "userId", "occurredAt"}
_TOLD_ELSEWHERE = {"message", "metadata"}


@dataclass(frozen=True, slots=True)
class SessionReads:
    """SELECTs on sessions. Every method raises DatabaseAway while PostgreSQL is."""

    database: Database

    async def session(self, session_id: UUID, caller: Caller) -> Json | None:
        """Return the session's columns if the caller may see it."""
        async with self.database.statements() as connection:
            return await _session(connection, session_id, caller)

    async def ended(self, session_id: UUID, caller: Caller) -> Json | None:
        """Return the session with its `reply` (null without one) if it has ended and the caller may see it."""
        async with self.database.statements() as connection:
            session = await _session(connection, session_id, caller)
            if session is None or session["status"] is SessionStatus.ACTIVE:
                return None
            reply = select(messages.c.content).where(
                messages.c.chat_session_id == session_id, messages.c.role == MessageRole.PERSONA
            )
            return {**session, "reply": await connection.scalar(reply)}

    async def detail(self, session_id: UUID, caller: Caller, now: datetime) -> Json | None:
        """Return the session with its messages, its timeline and how long it took, or takes until `now`."""
        async with self.database.snapshot() as connection:
            session = await _session(connection, session_id, caller)
            if session is None:
                return None
            said = select(messages).where(messages.c.chat_session_id == session_id)
            said = said.order_by(messages.c.created_at, messages.c.role)
            happened = select(session_events).where(session_events.c.session_id == session_id)
            happened = happened.order_by(session_events.c.occurred_at, session_events.c.event_id).limit(MAX_TIMELINE)
            said_rows = (await connection.execute(said)).all()
            happened_rows = (await connection.execute(happened)).all()
        took = (session["endedAt"] or now) - session["startedAt"]
        return {
            **session,
            "messages": [{"role": row.role, "content": row.content, "createdAt": row.createdAt} for row in said_rows],
            "timeline": [_happening(row.type, row.occurredAt, row.late, row.body) for row in happened_rows],
            "durationMs": max(0, int(took.total_seconds() * 1000)),
        }

    async def page(self, filters: Filters, page: Page) -> tuple[list[Json], int]:
        """Return the sessions of one page, one more than asked for if there are more, and the count up to the cap."""
        conditions = _conditions(filters)
        capped = select(true()).where(*conditions).limit(CAP + 1).subquery()
        async with self.database.statements() as connection:
            rows = (await connection.execute(_page(conditions, page))).mappings().all()
            total = await connection.scalar(select(func.count()).select_from(capped))
        return [dict(row) for row in rows], total or 0


async def _session(connection: AsyncConnection, session_id: UUID, caller: Caller) -> Json | None:
    statement = select(*_SESSION).where(chat_sessions.c.session_id == session_id)
    if not caller.is_admin:
        statement = statement.where(chat_sessions.c.user_id == caller.user_id)
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else dict(row)


def _happening(kind: str, at: datetime, late: bool, body: Json | None) -> Json:
    hidden = _IDENTITY | _TOLD_ELSEWHERE | (set() if late else {"reply"})
    told = {name: value for name, value in (body or {}).items() if name not in hidden}
    return {**told, "type": kind, "at": at, "late": late}


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    column = chat_sessions.c
    conditions: list[ColumnElement[bool]] = []
    if filters.user_id is not None:
        conditions.append(column.user_id == filters.user_id)
    if filters.statuses:
        conditions.append(column.status.in_(filters.statuses))
    if filters.persona_id is not None:
        conditions.append(column.persona_id == filters.persona_id)
    if filters.conversation_id is not None:
        conditions.append(column.conversation_id == filters.conversation_id)
    if filters.since is not None:
        conditions.append(column.session_id >= id_at(filters.since))
    if filters.until is not None:
        conditions.append(column.session_id < id_at(filters.until))
    if filters.text is not None:
        conditions.append(column.error_message.icontains(filters.text, autoescape=True))
    return conditions


def _page(conditions: list[ColumnElement[bool]], page: Page) -> Select[Any]:
    session_id = chat_sessions.c.session_id
    statement = select(*_SESSION).where(*conditions).limit(page.limit + 1).offset(page.offset)
    if page.after is not None:
        statement = statement.where(session_id < page.after if page.descending else session_id > page.after)
    return statement.order_by(session_id.desc() if page.descending else session_id.asc())
