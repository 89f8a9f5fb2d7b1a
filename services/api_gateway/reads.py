"""Sessions as the tracker committed them. Every query names the user whose sessions they are, or is an admin's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
)

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.filters.sql import condition
from services.api_gateway.history import HistoryPage, events_of, time_of, told
from services.api_gateway.listing import Page
from services.api_gateway.pages import SESSION, TOTAL, counted_page, form_of_list, page_alone, values_of_list
from services.api_gateway.selection import Selection
from services.contracts.session import MessageRole, SessionStatus
from services.database.driver import Statement, compiled
from services.database.tables import chat_sessions, messages, session_events

if TYPE_CHECKING:
    from asyncpg import Record

Json = dict[str, Any]

_STATUSES = {status.value: status for status in SessionStatus}
_ID = chat_sessions.c.session_id
_BEGINNING = HistoryPage()


@dataclass(frozen=True, slots=True)
class SessionReads:
    """SELECTs on sessions. Every method raises DatabaseAway while PostgreSQL is."""

    database: Database

    async def session(self, session_id: UUID, caller: Caller) -> Json | None:
        """Return the session's columns if the caller may see it."""
        return await self._one(_SESSION_ALONE, session_id, caller)

    async def sent(self, session_id: UUID, caller: Caller) -> Json | None:
        """Return the session with its `message` and `callPolicy` (null where absent) if the caller may see it."""
        return await self._one(_SESSION_SENT, session_id, caller)

    async def ended(self, session_id: UUID, caller: Caller) -> Json | None:
        """Return the session with its `reply` (null without one) if it has ended and the caller may see it."""
        session = await self._one(_SESSION_ANSWERED, session_id, caller)
        return None if session is None or session["status"] is SessionStatus.ACTIVE else session

    async def detail(self, session_id: UUID, caller: Caller, now: datetime) -> Json | None:
        """Return the session with its messages, the beginning of its history, and how long it took, or takes at `now`.

        `timelineCursor` is where the history goes on; None where the timeline is all of it.
        """
        session = await self._one(DETAIL, session_id, caller, **_BEGINNING.values)
        if session is None:
            return None
        said = session.pop("said")
        timeline, cursor = told(session.pop("happened"), _BEGINNING)
        took = (session["endedAt"] or now) - session["startedAt"]
        return {
            **session,
            "messages": [{**message, "createdAt": time_of(message["createdAt"])} for message in said],
            "timeline": timeline,
            "timelineCursor": cursor,
            "durationMs": max(0, int(took.total_seconds() * 1000)),
        }

    async def history(self, session_id: UUID, caller: Caller, page: HistoryPage) -> Json | None:
        """Return a page of the session's events if the caller may see it."""
        session = await self._one(_SESSION_HISTORY, session_id, caller, **page.values)
        if session is None:
            return None
        items, cursor = told(session["happened"], page)
        return {"items": items, "nextCursor": cursor}

    async def _one(self, statement: Statement, session_id: UUID, caller: Caller, **values: Any) -> Json | None:
        user_id = None if caller.is_admin else caller.user_id
        rows = await self.database.fetch(statement, session_id=session_id, user_id=user_id, **values)
        return _session(rows[0]) if rows else None

    async def sent_after(self, selection: Selection, after: UUID, before: UUID, limit: int) -> list[Json]:
        """Return what a selection finds between two ids, the oldest first, each session with what was sent."""
        return await self._with_sent([*_conditions(selection), after < _ID, before > _ID], limit)

    async def sent_of(self, session_ids: Sequence[UUID]) -> list[Json]:
        """Return those of the sessions that there are, each with what was sent."""
        return await self._with_sent([_ID.in_(session_ids)], len(session_ids))

    async def _with_sent(self, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[Json]:
        statement = select(*SESSION, *_sent(_ID)).where(*conditions)
        async with self.database.statements() as connection:
            rows = await connection.execute(statement.order_by(_ID).limit(limit))
            return [dict(row) for row in rows.mappings()]

    async def page(self, selection: Selection, page: Page) -> tuple[list[Json], int]:
        """Return the sessions of one page, one more than asked for if there are more, and the count up to the cap."""
        statement = counted_page(form_of_list(selection, page))
        rows = await self.database.fetch(statement, **values_of_list(selection, page, page.limit + 1))
        return [_session(row) for row in rows if row["sessionId"] is not None], rows[0][TOTAL]

    async def following(self, selection: Selection, page: Page) -> list[Json]:
        """Return the sessions of one page, and not how many there are."""
        statement = page_alone(form_of_list(selection, page))
        rows = await self.database.fetch(statement, **values_of_list(selection, page, page.limit))
        return [_session(row) for row in rows]


def _session(row: "Record") -> Json:
    session = dict(row)
    session.pop(TOTAL, None)
    session["status"] = _STATUSES[session["status"]]
    return session


def _sent(session_id: ColumnElement[UUID]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return the text of the session's message, and how it was to be called where it said so."""
    event = session_events.c
    policies = select(event.body["callPolicy"]).where(event.session_id == session_id, event.type == "MessageSent")
    policy = policies.order_by(event.event_id).limit(1).scalar_subquery().label("callPolicy")
    return _content(session_id, MessageRole.USER, "message"), policy


def _content(session_id: ColumnElement[UUID], role: MessageRole, name: str) -> ColumnElement[Any]:
    """Return the text of the session's message by this role."""
    column = messages.c
    said = select(column.content).where(column.chat_session_id == session_id, column.role == role)
    return said.order_by(column.created_at).limit(1).scalar_subquery().label(name)


def _said(session_id: ColumnElement[UUID]) -> ColumnElement[Any]:
    """Return the session's messages as a JSON array: the user's before the reply, whatever clocks told their times."""
    column = messages.c
    rows = select(column.role, column.content, column.created_at).where(column.chat_session_id == session_id)
    return _json_array(rows.order_by(column.role, column.created_at), "said")


def _json_array(rows: Select[Any], name: str) -> ColumnElement[Any]:
    row = rows.subquery(name + "_rows")
    array = func.coalesce(func.json_agg(row.table_valued()), literal_column("'[]'::json"), type_=JSON)
    return select(array).scalar_subquery().label(name)


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    # Whose sessions they are stands beside the filter, where nothing that it says can reach.
    own = [] if selection.user_id is None else [chat_sessions.c.user_id == selection.user_id]
    return [*own, condition(selection.filter)]


def _one_session(*more: ColumnElement[Any]) -> Statement:
    """Return the SELECT of the wanted session if it is this user's, or the user is null: then whosever it is."""
    user_id = bindparam("user_id", type_=chat_sessions.c.user_id.type)
    whose = or_(user_id.is_(None), chat_sessions.c.user_id == user_id)
    return compiled(select(*SESSION, *more).where(_ID == _WANTED, whose))


# Each is one round trip, and sees one moment.
_WANTED: BindParameter[UUID] = bindparam("session_id", type_=_ID.type)
_HAPPENED = _json_array(events_of(_WANTED), "happened")
_SESSION_ALONE = _one_session()
_SESSION_SENT = _one_session(*_sent(_WANTED))
_SESSION_ANSWERED = _one_session(_content(_WANTED, MessageRole.PERSONA, "reply"))
DETAIL = _one_session(_said(_WANTED), _HAPPENED)
_SESSION_HISTORY = _one_session(_HAPPENED)
