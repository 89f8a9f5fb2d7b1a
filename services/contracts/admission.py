"""The one rule book of what an event may carry; gateway, dispatcher and tracker decide by it alike."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import JsonValue
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from services.contracts.errors import NotAdmitted
from services.contracts.events import (
    EVENT_CLASSES,
    CancelRequested,
    ErasureRequested,
    Event,
    MessageSent,
    Metadata,
    ReplyDelta,
    SessionEvent,
    TimeoutSweep,
    WebhookAttempted,
    WebhookFailed,
    WebhookSucceeded,
)
from services.contracts.ids import id_milliseconds

MAX_ID_CHARACTERS = 128
MAX_MESSAGE_BYTES = 32 * 1024
MAX_METADATA_BYTES = 8 * 1024
MAX_REPLY_BYTES = 256 * 1024
MAX_TEXT_BYTES = 2 * 1024
"""Of an error message, a failing response's body, a reason."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of the reader's clock a publisher's may be."""
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""Nothing in this system is older: a time or an id before it was not made by a clock."""
_EARLIEST_MS = EARLIEST.timestamp() * 1000
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""Of times that may lie ahead. Beyond it, conversion to another time zone can leave what a datetime holds."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is looked at in events of one class: names on the wire, the attributes that hold them, limits in bytes."""

    of_session: bool
    has_metadata: bool
    times: Sequence[tuple[str, str]]
    times_ahead: Sequence[tuple[str, str]]
    ids: Sequence[tuple[str, str]]
    texts: Sequence[tuple[str, str, int]]


_TIMES = ("occurred_at", "as_of")
_TIMES_AHEAD: dict[type[Event], tuple[str, ...]] = {
    WebhookAttempted: ("retry_at", "deadline_at"),
    ErasureRequested: ("before",),
}
_IDS = ("conversation_id", "persona_id", "user_id", "template_id")
_ATTEMPT_TEXTS = {"execution_id": MAX_TEXT_BYTES, "error_message": MAX_TEXT_BYTES, "response_body": MAX_TEXT_BYTES}
_TEXTS: dict[type[Event], dict[str, int]] = {
    MessageSent: {"message": MAX_MESSAGE_BYTES},
    WebhookAttempted: _ATTEMPT_TEXTS,
    WebhookSucceeded: {"execution_id": MAX_TEXT_BYTES, "reply": MAX_REPLY_BYTES},
    WebhookFailed: _ATTEMPT_TEXTS,
    ReplyDelta: {"text": MAX_REPLY_BYTES},
    CancelRequested: {"requested_by": MAX_TEXT_BYTES, "reason": MAX_TEXT_BYTES},
    TimeoutSweep: {"requested_by": MAX_TEXT_BYTES},
    ErasureRequested: {"requested_by": MAX_TEXT_BYTES},
}


def _rules(kind: type[Event]) -> _Rules:
    def named(attributes: Iterable[str]) -> list[tuple[str, str]]:
        return [(to_camel(attribute), attribute) for attribute in attributes if attribute in kind.model_fields]

    return _Rules(
        of_session=issubclass(kind, SessionEvent),
        has_metadata=kind is MessageSent,
        times=named(_TIMES),
        times_ahead=named(_TIMES_AHEAD.get(kind, ())),
        ids=named(_IDS),
        texts=[(to_camel(attribute), attribute, limit) for attribute, limit in _TEXTS.get(kind, {}).items()],
    )


_RULES = {kind: _rules(kind) for kind in EVENT_CLASSES}
"""Worked out once a class: admission looks at every event, and asking each for its class takes longer than the rest."""


def admit(event: Event, now: datetime) -> None:
    """Return if the event may be acted upon at `now`; raise NotAdmitted with the rule that it breaks.

    Sizes are of UTF-8. Text holds neither U+0000, which PostgreSQL cannot store, nor lone surrogates, which UTF-8
    cannot carry.
    """
    rules = _RULES[type(event)]
    latest = now + CLOCK_SKEW
    for name, attribute in rules.times:
        _admit_time(name, getattr(event, attribute), latest)
    if rules.of_session:
        _admit_session_id(event.session_id, latest)  # type: ignore[union-attr]
    for name, attribute in rules.ids:
        if (value := getattr(event, attribute)) is not None:
            admit_id(name, value)
    for name, attribute in rules.times_ahead:
        if (time := getattr(event, attribute)) is not None:
            _admit_time_ahead(name, time)
    for name, attribute, limit in rules.texts:
        if (text := getattr(event, attribute)) is not None:
            admit_text(name, text, limit)
    if rules.has_metadata:
        admit_metadata(event.metadata)  # type: ignore[union-attr]


def admit_id(name: str, value: str) -> None:
    """Raise NotAdmitted unless `value` is 1 to 128 characters of storable text."""
    if 1 <= len(value) <= MAX_ID_CHARACTERS and value.isascii() and "\0" not in value:
        return  # as most are
    if not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise NotAdmitted("id-size", f"{name} has {len(value)} characters; 1 to {MAX_ID_CHARACTERS} are allowed.")
    _admit_characters(name, value)


def admit_text(name: str, value: str, limit: int) -> None:
    """Raise NotAdmitted unless `value` is storable text of at most `limit` bytes."""
    _admit_characters(name, value)
    # Four bytes a character at most: most texts need no second look.
    if len(value) * 4 > limit and (size := len(value.encode())) > limit:
        raise NotAdmitted("too-large", f"{name} has {size} bytes; {limit} are allowed.")


def admit_metadata(metadata: Metadata) -> None:
    """Raise NotAdmitted unless the metadata is storable JSON of at most 8 KiB."""
    for text in _strings(metadata):
        _admit_characters("metadata", text)
    size = len(to_json(metadata))
    if size > MAX_METADATA_BYTES:
        raise NotAdmitted("too-large", f"metadata has {size} bytes; {MAX_METADATA_BYTES} are allowed.")


def storable(text: str) -> str:
    """Return `text` with U+FFFD in place of what admit() refuses: U+0000 and lone surrogates."""
    if _storable(text):
        return text
    return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def shortened(text: str, limit: int) -> str:
    """Return `text` cut to at most `limit` bytes of UTF-8, never within a character."""
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore")


def _admit_session_id(session_id: UUID, latest: datetime) -> None:
    if session_id.version != 7:
        raise NotAdmitted("session-id", "sessionId is not a UUIDv7.")
    milliseconds = id_milliseconds(session_id)
    if milliseconds > latest.timestamp() * 1000:
        raise NotAdmitted("session-id-ahead", "sessionId carries a time more than 5 minutes ahead.")
    if milliseconds < _EARLIEST_MS:
        raise NotAdmitted("session-id-past", "sessionId carries a time before 2020.")


def _admit_time(name: str, time: datetime, latest: datetime) -> None:
    if time > latest:
        raise NotAdmitted("time-ahead", f"{name} is more than 5 minutes ahead.")
    if time < EARLIEST:
        raise NotAdmitted("time-past", f"{name} is before 2020.")


def _admit_time_ahead(name: str, time: datetime) -> None:
    if time > LATEST:
        raise NotAdmitted("time-ahead", f"{name} is after the year 9998.")
    if time < EARLIEST:
        raise NotAdmitted("time-past", f"{name} is before 2020.")


def _admit_characters(name: str, value: str) -> None:
    if not _storable(value):
        raise NotAdmitted("characters", f"{name} contains U+0000 or a lone surrogate.")


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():  # most texts, and Python knows at once
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _strings(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotAdmitted("number", "metadata contains a number that JSON cannot carry.")
