"""Where a client is in Kafka's log, as the ids of Server-Sent Events tell it: opaque to clients, and short. No I/O."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from services.contracts.topics import PARTITIONS

Offsets = tuple[int, ...]
"""Of each partition of the sessions topic: the offset of the next record."""

MAX_ID_CHARACTERS = 128
_OF_LIST, _OF_SESSION = 1, 2
_MOST = 2**63


class SessionPosition(NamedTuple):
    """How far the stream of one session is: the version told last, and the next offset of pieces of its replies."""

    version: int = 0
    delta_offset: int = 0


class WrongPosition(ValueError):
    """The text is no id of an event of this kind of stream."""


def list_id(offsets: Iterable[int]) -> bytes:
    """Return the id of an event of a list's stream, after which these offsets come."""
    return _text(_OF_LIST, offsets)


def session_id(position: SessionPosition) -> bytes:
    """Return the id of an event of one session's stream."""
    return _text(_OF_SESSION, position)


def read_list_id(text: str) -> Offsets:
    """Return the offsets that an id names; raise WrongPosition for any other text."""
    return tuple(_numbers(text, _OF_LIST, PARTITIONS))


def read_session_id(text: str) -> SessionPosition:
    """Return the position that an id names; raise WrongPosition for any other text."""
    return SessionPosition(*_numbers(text, _OF_SESSION, len(SessionPosition._fields)))


def _text(kind: int, numbers: Iterable[int]) -> bytes:
    raw = bytearray((kind,))
    for number in numbers:
        left = number
        # Seven bits a byte, the lowest first; the eighth says that more follow.
        while left > 0x7F:
            raw.append(left & 0x7F | 0x80)
            left >>= 7
        raw.append(left)
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _numbers(text: str, kind: int, count: int) -> list[int]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    numbers = list(_read(raw[1:]))
    if raw[:1] != bytes((kind,)) or len(numbers) != count or _text(kind, numbers).decode() != text:
        raise WrongPosition(text)
    return numbers


def _read(raw: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in raw:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            # What does not fit is no offset; changed, it no longer gives the text that it came from.
            yield number % _MOST
            number = shift = 0
