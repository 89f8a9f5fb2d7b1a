"""UUIDs and the time they carry (RFC 9562)."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid5, uuid7

__all__ = ["NAMESPACE", "derived_id", "id_milliseconds", "id_time", "new_id"]

NAMESPACE = UUID("6f5b1f5e-3d0a-5a57-9f38-1f9a6d0f7a11")
"""The namespace of every derived id of this system."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLISECOND = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def new_id() -> UUID:
    """Mint a UUIDv7 of now: ids sort by the time at which they were made."""
    return uuid7()


def derived_id(*parts: object) -> UUID:
    """Return the UUIDv5 of the parts: the same parts give the same id in every process."""
    return uuid5(NAMESPACE, "/".join(map(str, parts)))


def id_milliseconds(uuid: UUID) -> int:
    """Return the Unix time in milliseconds that a UUIDv7 carries in its first 48 bits."""
    return uuid.int >> 80


def id_time(uuid: UUID) -> datetime:
    """Return the time that a UUIDv7 carries, at most the end of year 9999.

    48 bits reach the year 10889; a datetime does not.
    """
    # Whole-number arithmetic: far ahead, a float of seconds is a microsecond off.
    return _EPOCH + timedelta(milliseconds=min(id_milliseconds(uuid), _LAST_MILLISECOND))
