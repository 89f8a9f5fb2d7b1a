"""A session's history as it is told: its events in the order of their times, page by page."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Select, bindparam, select, tuple_

from services.api_gateway.parameters import Query
from services.api_gateway.problems import invalid_cursor
from services.database.tables import session_events

Json = dict[str, Any]

MAX_EVENTS = 200
"""Of one page, and of the beginning that a session is told with."""
CURSOR_BYTES = 24

_IDENTITY = {"eventId", "sessionId", "conversationId", "personaId", "userId", "occurredAt"}
_TOLD_ELSEWHERE = {"message", "metadata"}
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """An event's place in its session's history."""

    occurred_at: datetime
    event_id: UUID


_BEFORE_ALL = Place(_EPOCH, UUID(int=0))


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a history: so many events, those after a place."""

    limit: int = MAX_EVENTS
    after: Place = _BEFORE_ALL

    @property
    def values(self) -> dict[str, Any]:
        """What events_of takes: one event more than there is room for, if there are more."""
        return {"after_at": self.after.occurred_at, "after_id": self.after.event_id, "most": self.limit + 1}


def read_history_page(query: Query) -> HistoryPage:
    """Return the page that a query asks for; Problem 400 for a wrong one."""
    cursor = query.text("cursor", 64)
    limit = query.integer("limit", 50, low=1, high=MAX_EVENTS)
    return HistoryPage(limit, _BEFORE_ALL if cursor is None else _read_cursor(cursor))


def events_of(session_id: ColumnElement[UUID]) -> Select[Any]:
    """Return the SELECT of a page's events in order; its parameters are a page's `values`."""
    column = session_events.c
    place = tuple_(column.occurred_at, column.event_id)
    after = tuple_(
        bindparam("after_at", type_=column.occurred_at.type), bindparam("after_id", type_=column.event_id.type)
    )
    rows = select(column.type, column.occurred_at, column.late, column.body, column.event_id)
    rows = rows.where(column.session_id == session_id, place > after)
    return rows.order_by(column.occurred_at, column.event_id).limit(bindparam("most", type_=Integer))


def told(events: list[Json], page: HistoryPage) -> tuple[list[Json], str | None]:
    """Return a page's events as they are told, and the cursor of the page after it if there are more."""
    more = len(events) > page.limit
    events = events[: page.limit]
    return [_happening(event) for event in events], _cursor(events[-1]) if more else None


def time_of(text: str) -> datetime:
    """Return a time that PostgreSQL tells in JSON, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _happening(event: Json) -> Json:
    hidden = _IDENTITY | _TOLD_ELSEWHERE | (set() if event["late"] else {"reply"})
    shown = {name: value for name, value in (event["body"] or {}).items() if name not in hidden}
    return {**shown, "type": event["type"], "at": time_of(event["occurredAt"]), "late": event["late"]}


def _cursor(event: Json) -> str:
    microseconds = (time_of(event["occurredAt"]) - _EPOCH) // _MICROSECOND
    raw = microseconds.to_bytes(8, signed=True) + UUID(event["eventId"]).bytes
    return base64.urlsafe_b64encode(raw).decode()


def _read_cursor(cursor: str) -> Place:
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if len(raw) == CURSOR_BYTES:
            microseconds = int.from_bytes(raw[:8], signed=True)
            return Place(_EPOCH + microseconds * _MICROSECOND, UUID(bytes=raw[8:]))
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise invalid_cursor()
