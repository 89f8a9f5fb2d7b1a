"""Which sessions a list is of, and which page of it. No I/O."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.api_gateway.parameters import Query
from services.api_gateway.problems import invalid_parameter
from services.contracts.session import SessionStatus

CAP = 1_000
"""Lists count no further than this."""
MAX_LIMIT = 200
MAX_OFFSET = 10_000
MAX_TEXT_CHARACTERS = 200
FILTER_NAMES = ("status", "personaId", "conversationId", "userId", "from", "to", "q")
PAGE_NAMES = ("sort", "limit", "offset", "cursor")
_SORTS = ("-startedAt", "startedAt")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a session must be to stand in the list; None and () ask for nothing."""

    user_id: str | None
    statuses: tuple[SessionStatus, ...] = ()
    persona_id: str | None = None
    conversation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Not included."""
    text: str | None = None
    """Contained in the error message, whatever the case."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list sorted by the session id, which is the order in which sessions started."""

    limit: int
    offset: int
    descending: bool
    after: UUID | None


def read_filters(query: Query, user_id: str | None) -> Filters:
    """Return the filters of a query on the sessions of `user_id` (None: of everyone); Problem 400 for a wrong one."""
    return Filters(
        user_id=user_id,
        statuses=query.choices("status", SessionStatus),
        persona_id=query.identifier("personaId"),
        conversation_id=query.identifier("conversationId"),
        since=query.time("from"),
        until=query.time("to"),
        text=query.text("q", MAX_TEXT_CHARACTERS),
    )


def read_page(query: Query) -> Page:
    """Return the page that a query asks for; Problem 400 for a wrong one."""
    sort = query.choice("sort", _SORTS) or _SORTS[0]
    descending = sort == _SORTS[0]
    cursor = query.text("cursor", 64)
    offset = query.integer("offset", 0, low=0, high=MAX_OFFSET)
    if cursor is not None and offset:
        raise invalid_parameter("offset", "A cursor says where the page begins; leave the offset out.")
    after = None if cursor is None else _read_cursor(cursor, descending=descending)
    return Page(query.integer("limit", 50, low=1, high=MAX_LIMIT), offset, descending, after)


def list_answer(rows: list[dict[str, Any]], counted: int, page: Page) -> dict[str, Any]:
    """Return the answer for the rows of a page, one more than its limit if there are more."""
    items = rows[: page.limit]
    more = len(rows) > page.limit
    return {
        "items": items,
        "nextCursor": _cursor(items[-1]["sessionId"], descending=page.descending) if more else None,
        "total": min(counted, CAP),
        "totalCapped": counted > CAP,
        "limit": page.limit,
        "offset": page.offset,
    }


def _cursor(session_id: UUID, *, descending: bool) -> str:
    raw = (b"-" if descending else b"+") + session_id.bytes
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_cursor(cursor: str, *, descending: bool) -> UUID:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 17 or raw[:1] not in {b"-", b"+"}:
        raise invalid_parameter("cursor", "Give the nextCursor of an earlier answer, unchanged.")
    if (raw[:1] == b"-") != descending:
        raise invalid_parameter("cursor", "This cursor belongs to the other sort order; keep sort as it was.")
    return UUID(bytes=raw[1:])
