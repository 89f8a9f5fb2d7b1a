"""Places in lists that are in the order of a time and an id, and the cursors that name them."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.api_gateway.problems import invalid_cursor

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_BYTES = 24


class Place(NamedTuple):
    """The place of an event in its session's history, or of an entry in the audit log."""

    at: datetime
    id: UUID


BEFORE_ALL = Place(_EPOCH, UUID(int=0))


def cursor_of(place: Place) -> str:
    """Return the cursor that names a place: 32 characters."""
    raw = ((place.at - _EPOCH) // _MICROSECOND).to_bytes(8, signed=True) + place.id.bytes
    return base64.urlsafe_b64encode(raw).decode()


def read_place(cursor: str) -> Place:
    """Return the place that a cursor names; Problem 400 where it is none of ours."""
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if len(raw) == _BYTES:
            return Place(_EPOCH + int.from_bytes(raw[:8], signed=True) * _MICROSECOND, UUID(bytes=raw[8:]))
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise invalid_cursor()
