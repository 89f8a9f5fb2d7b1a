"""Server-Sent Events as bytes. No I/O. The text of each is JSON on one line, in UTF-8."""

from collections.abc import Mapping
from typing import Any

from services.api_gateway.json_text import as_json

STILL_THERE = b":\n\n"
"""A comment, which clients do not see: it keeps what lies between from closing a silent connection."""


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return an event without an id."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), as_json(data))


def with_id(position: bytes, frame: bytes) -> bytes:
    """Return the event with the id at which a client that has it goes on."""
    return b"id: %s\n%s" % (position, frame)


def with_retry(milliseconds: int, frame: bytes) -> bytes:
    """Return the event with the time after which a client that is cut off comes back."""
    return b"retry: %d\n%s" % (milliseconds, frame)
