"""Sessions as the tracker committed them. Every query names the user whose sessions they are, or is an admin's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
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
    true,
    tuple_,
)

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.filters.sql import condition
from services.api_gateway.history import HistoryPage, events_of, time_of, told
from services.api_gateway.listing import CAP, NO_RESPONSE, Page, Sort
from services.api_gateway.selection import Selection
from services.contracts.session import MessageRole, SessionStatus
from services.database.driver import Statement, compiled
from services.database.tables import chat_sessions, messages, session_events

Json = dict[str, Any]

_TOTAL = "total"

# By plain strings: with SQLAlchemy's own kind of names as keys, a session takes 15 times as long to become JSON.
_SESSION = [column.label(str(column.name)) for column in chat_sessions.c]
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
        return {**rows[0], "status": SessionStatus(rows[0]["status"])} if rows else None

    async def sent_after(self, selection: Selection, after: UUID, before: UUID, limit: int) -> list[Json]:
        """Return what a selection finds between two ids, the oldest first, each session with what was sent."""
        return await self._with_sent([*_conditions(selection), after < _ID, before > _ID], limit)

    async def sent_of(self, session_ids: Sequence[UUID]) -> list[Json]:
        """Return those of the sessions that there are, each with what was sent."""
        return await self._with_sent([_ID.in_(session_ids)], len(session_ids))

    async def _with_sent(self, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[Json]:
        statement = select(*_SESSION, *_sent(_ID)).where(*conditions)
        async with self.database.statements() as connection:
            rows = await connection.execute(statement.order_by(_ID).limit(limit))
            return [dict(row) for row in rows.mappings()]

    async def page(self, selection: Selection, page: Page) -> tuple[list[Json], int]:
        """Return the sessions of one page, one more than asked for if there are more, and the count up to the cap."""
        async with self.database.statements() as connection:
            rows = (await connection.execute(counted_page(selection, page))).mappings().all()
        found = [{name: value for name, value in row.items() if name != _TOTAL} for row in rows]
        return [session for session in found if session["sessionId"] is not None], rows[0][_TOTAL]

    async def following(self, selection: Selection, page: Page) -> list[Json]:
        """Return the sessions of one page, and not how many there are."""
        async with self.database.statements() as connection:
            rows = await connection.execute(_page(_conditions(selection), page, page.limit))
            return [dict(row) for row in rows.mappings()]


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
    """Return the session's messages as a JSON array, in order."""
    column = messages.c
    rows = select(column.role, column.content, column.created_at).where(column.chat_session_id == session_id)
    return _json_array(rows.order_by(column.created_at, column.role), "said")


def _json_array(rows: Select[Any], name: str) -> ColumnElement[Any]:
    row = rows.subquery(name + "_rows")
    array = func.coalesce(func.json_agg(row.table_valued()), literal_column("'[]'::json"), type_=JSON)
    return select(array).scalar_subquery().label(name)


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    # Whose sessions they are stands beside the filter, where nothing that it says can reach.
    own = [] if selection.user_id is None else [chat_sessions.c.user_id == selection.user_id]
    return [*own, condition(selection.filter)]


def counted_page(selection: Selection, page: Page) -> Select[Any]:
    """Return one page, each row with the capped count; where the page is empty, one row with nothing else."""
    conditions = _conditions(selection)
    capped = select(true()).where(*conditions).limit(CAP + 1).subquery()
    counted = select(func.count().label(_TOTAL)).select_from(capped).subquery()
    rows = _page(conditions, page, page.limit + 1).subquery()
    session = [column.label(str(column.name)) for column in rows.c]
    statement = select(counted.c[_TOTAL], *session).select_from(counted.outerjoin(rows, true()))
    return statement.order_by(*_order(page.sort, rows.c.sessionId, rows.c.responseMs))


def _page(conditions: list[ColumnElement[bool]], page: Page, limit: int) -> Select[Any]:
    session_id, response_ms = chat_sessions.c.session_id, chat_sessions.c.response_ms
    statement = select(*_SESSION).where(*conditions).limit(limit).offset(page.offset)
    after = page.after
    if after is not None:
        match page.sort:
            case Sort.NEWEST:
                statement = statement.where(session_id < after.session_id)
            case Sort.OLDEST:
                statement = statement.where(session_id > after.session_id)
            case Sort.SLOWEST:
                place = tuple_(_time_taken(response_ms), session_id)
                statement = statement.where(place < (after.response_ms, after.session_id))
    return statement.order_by(*_order(page.sort, session_id, response_ms))


def _order(
    sort: Sort, session_id: ColumnElement[Any], response_ms: ColumnElement[Any]
) -> tuple[ColumnElement[Any], ...]:
    match sort:
        case Sort.NEWEST:
            return (session_id.desc(),)
        case Sort.OLDEST:
            return (session_id.asc(),)
        case Sort.SLOWEST:
            return (_time_taken(response_ms).desc(), session_id.desc())


def _time_taken(response_ms: ColumnElement[Any]) -> ColumnElement[int]:
    return func.coalesce(response_ms, NO_RESPONSE)


def _one_session(*more: ColumnElement[Any]) -> Statement:
    """Return the SELECT of the wanted session if it is this user's, or the user is null: then whosever it is."""
    user_id = bindparam("user_id", type_=chat_sessions.c.user_id.type)
    whose = or_(user_id.is_(None), chat_sessions.c.user_id == user_id)
    return compiled(select(*_SESSION, *more).where(_ID == _WANTED, whose))


# Each is one round trip, and sees one moment.
_WANTED: BindParameter[UUID] = bindparam("session_id", type_=_ID.type)
_HAPPENED = _json_array(events_of(_WANTED), "happened")
_SESSION_ALONE = _one_session()
_SESSION_SENT = _one_session(*_sent(_WANTED))
_SESSION_ANSWERED = _one_session(_content(_WANTED, MessageRole.PERSONA, "reply"))
DETAIL = _one_session(_said(_WANTED), _HAPPENED)
_SESSION_HISTORY = _one_session(_HAPPENED)
