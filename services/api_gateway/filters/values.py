"""What a filter's values are read as. Each raises ValueError with a whole sentence for one that is none. No I/O."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from services.contracts import NotAdmitted
from services.contracts.admission import EARLIEST, LATEST, admit_id

E = TypeVar("E", bound=StrEnum)

MOST = 2**31 - 1
_SCALAR = re.compile(r"true|false|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")


def word_of(allowed: type[E]) -> Callable[[str], E]:
    """Return a reader of one of these words, whatever its case."""
    by_name = {word.casefold(): word for word in allowed}

    def read(text: str) -> E:
        try:
            return by_name[text.casefold()]
        except KeyError:
            raise ValueError(f"It must be one of {', '.join(allowed)}.") from None

    return read


def identifier(text: str) -> str:
    """Return an id of the kind that events carry: 1 to 128 storable characters."""
    try:
        admit_id("It", text)
    except NotAdmitted as error:
        raise ValueError(error.explanation) from None
    return text


def session_id(text: str) -> UUID:
    """Return the id of a session."""
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("It must be the id of a session, a UUID.") from None


def whole_number(text: str) -> int:
    """Return a whole number from 0 on."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MOST):
        raise ValueError(f"It must be a whole number from 0 to {MOST}.")
    return int(text)


def time(text: str) -> datetime:
    """Return an ISO 8601 time in UTC, taken as UTC where it names no zone, within the years 2020 to 9998."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("It must be an ISO 8601 time such as 2026-11-22T12:00:00Z.") from None
    # No session lies beyond these, so what a filter says of them stays the same.
    return min(max(moment, EARLIEST), LATEST)


def time_to_the_millisecond(text: str) -> datetime:
    """Return a time without what is smaller than a millisecond: sessions start at whole ones."""
    moment = time(text)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def json_scalars(text: str, *, quoted: bool) -> tuple[str, ...]:
    """Return the JSON texts of what may be meant: the string, and without quotes also the number or truth value."""
    string = json.dumps(text)
    if quoted or not _SCALAR.fullmatch(text) or math.isinf(float(text) if text[0] not in "tf" else 0):
        return (string,)
    return (string, text)
