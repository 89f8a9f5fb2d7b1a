"""Pages of a list, and the cursors from one to the next."""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.api_gateway.filters.bounds import started_within
from services.api_gateway.filters.meaning import Filter
from services.api_gateway.parameters import Query
from services.api_gateway.problems import invalid_cursor, invalid_parameter
from services.api_gateway.selection import Selection

CAP = 1_000
"""Lists count no further than this."""
MAX_OFFSET = 10_000
MAX_SORTED = timedelta(days=31)
"""The range that can be sorted by response time."""
PAGE_NAMES = ("sort", "limit", "offset", "cursor")
NO_RESPONSE = -1
"""Stands for the response time of sessions that have none: after all that have."""
_DIGEST_BYTES = 8
_SLACK = timedelta(hours=1)
"""For clocks, and for going on from page to page of a range that ends now."""


class Sort(StrEnum):
    """The order of a list."""

    NEWEST = "-startedAt"
    OLDEST = "startedAt"
    SLOWEST = "-responseMs"


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a session in a list; its response time counts where they are sorted by it."""

    session_id: UUID
    response_ms: int = NO_RESPONSE


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list; sessions that stand alike are in the order of their ids."""

    limit: int
    offset: int = 0
    sort: Sort = Sort.NEWEST
    after: Position | None = None


def read_sort(query: Query, tree: Filter, now: datetime) -> Sort:
    """Return the order that a query asks for; Problem 400 for one that takes a shorter range."""
    sort = query.word("sort", Sort) or Sort.NEWEST
    if sort is Sort.SLOWEST:
        bounds = started_within(tree)
        if bounds.since is None or (bounds.until or now) - bounds.since > MAX_SORTED + _SLACK:
            days = MAX_SORTED.days
            raise invalid_parameter("sort", f"Slowest first takes a range of at most {days} days; give from and to.")
    return sort


def read_page(query: Query, selection: Selection, now: datetime) -> Page:
    """Return the page that a query asks for; Problem 400 for a wrong one."""
    sort = read_sort(query, selection.filter, now)
    cursor = query.text("cursor", 64)
    offset = query.integer("offset", 0, low=0, high=MAX_OFFSET)
    if cursor is not None and offset:
        raise invalid_parameter("offset", "A cursor says where the page begins; leave the offset out.")
    after = None if cursor is None else _read_cursor(cursor, selection, sort)
    return Page(query.limit(), offset, sort, after)


def position_of(session: dict[str, Any]) -> Position:
    """Return the place of a session that was read."""
    response_ms = session["responseMs"]
    return Position(session["sessionId"], NO_RESPONSE if response_ms is None else response_ms)


def list_answer(rows: list[dict[str, Any]], counted: int, selection: Selection, page: Page) -> dict[str, Any]:
    """Return the answer for the rows of a page, one more than its limit if there are more."""
    items = rows[: page.limit]
    more = len(rows) > page.limit
    return {
        "items": items,
        "nextCursor": _cursor(position_of(items[-1]), selection, page.sort) if more else None,
        "total": min(counted, CAP),
        "totalCapped": counted > CAP,
        "limit": page.limit,
        "offset": page.offset,
    }


def _cursor(position: Position, selection: Selection, sort: Sort) -> str:
    place = position.session_id.bytes + position.response_ms.to_bytes(8, signed=True)
    return base64.urlsafe_b64encode(_digest(selection, sort) + place).decode().rstrip("=")


def _read_cursor(cursor: str, selection: Selection, sort: Sort) -> Position:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    digest, place = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if len(place) != 24:
        raise invalid_cursor()
    if digest != _digest(selection, sort):
        raise invalid_parameter("cursor", "This cursor belongs to another filter or order; keep both as they were.")
    return Position(UUID(bytes=place[:16]), int.from_bytes(place[16:], signed=True))


def _digest(selection: Selection, sort: Sort) -> bytes:
    """Return what tells lists apart; values of a filter show all that they hold."""
    return hashlib.blake2b(repr((selection, sort)).encode(), digest_size=_DIGEST_BYTES).digest()
