"""A session's history as it is told: its events in the order of their times, page by page."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Select, bindparam, select, tuple_

from services.api_gateway.parameters import Query
from services.api_gateway.places import BEFORE_ALL, Place, cursor_of, read_place
from services.database.tables import session_events

Json = dict[str, Any]

MAX_EVENTS = 200
"""Of one page, and of the beginning that a session is told with."""

_TOLD_ELSEWHERE = {"message", "metadata"}


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a history: so many events, those after a place."""

    limit: int = MAX_EVENTS
    after: Place = BEFORE_ALL

    @property
    def values(self) -> dict[str, Any]:
        """What events_of takes: one event more than there is room for, if there are more."""
        return {"after_at": self.after.at, "after_id": self.after.id, "most": self.limit + 1}


def read_history_page(query: Query) -> HistoryPage:
    """Return the page that a query asks for; Problem 400 for a wrong one."""
    cursor = query.text("cursor", 64)
    limit = query.limit(MAX_EVENTS)
    return HistoryPage(limit, BEFORE_ALL if cursor is None else read_place(cursor))


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
    last = events[-1] if more else None
    cursor = cursor_of(Place(time_of(last["occurredAt"]), UUID(last["eventId"]))) if last else None
    return [_happening(event) for event in events], cursor


def time_of(text: str) -> datetime:
    """Return a time that PostgreSQL tells in JSON, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _happening(event: Json) -> Json:
    hidden = _TOLD_ELSEWHERE | (set() if event["late"] else {"reply"})
    shown = {name: value for name, value in (event["body"] or {}).items() if name not in hidden}
    return {**shown, "type": event["type"], "at": time_of(event["occurredAt"]), "late": event["late"]}
