"""The one rule book of what an event may carry; gateway, dispatcher and tracker decide by it alike."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue
from pydantic_core import to_json

from services.contracts.errors import NotAdmitted
from services.contracts.events import (
    AttemptEvent,
    CancelRequested,
    ErasureRequested,
    Event,
    EventBody,
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
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""Of times that may lie ahead. Beyond it, conversion to another time zone can leave what a datetime holds."""


def admit(event: Event, now: datetime) -> None:
    """Return if the event may be acted upon at `now`; raise NotAdmitted with the rule that it breaks.

    Sizes are of UTF-8. Text holds neither U+0000, which PostgreSQL cannot store, nor lone surrogates, which UTF-8
    cannot carry.
    """
    _admit_time("occurredAt", event.occurred_at, now)
    if isinstance(event, SessionEvent):
        _admit_session(event, now)
    if isinstance(event, ErasureRequested):
        admit_id("conversationId", event.conversation_id)
        admit_id("userId", event.user_id)
    for name, time in _times_ahead(event):
        _admit_time_ahead(name, time)
    for name, text, limit in _texts(event):
        admit_text(name, text, limit)
    if isinstance(event, MessageSent):
        admit_metadata(event.metadata)
        if event.template_id is not None:
            admit_id("templateId", event.template_id)
    if isinstance(event, TimeoutSweep):
        _admit_time("asOf", event.as_of, now)


def admit_id(name: str, value: str) -> None:
    """Raise NotAdmitted unless `value` is 1 to 128 characters of storable text."""
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


def _admit_session(event: SessionEvent, now: datetime) -> None:
    if event.session_id.version != 7:
        raise NotAdmitted("session-id", "sessionId is not a UUIDv7.")
    milliseconds = id_milliseconds(event.session_id)
    if milliseconds > (now + CLOCK_SKEW).timestamp() * 1000:
        raise NotAdmitted("session-id-ahead", "sessionId carries a time more than 5 minutes ahead.")
    if milliseconds < EARLIEST.timestamp() * 1000:
        raise NotAdmitted("session-id-past", "sessionId carries a time before 2020.")
    admit_id("conversationId", event.conversation_id)
    admit_id("personaId", event.persona_id)
    admit_id("userId", event.user_id)


def _admit_time(name: str, time: datetime, now: datetime) -> None:
    if time > now + CLOCK_SKEW:
        raise NotAdmitted("time-ahead", f"{name} is more than 5 minutes ahead.")
    if time < EARLIEST:
        raise NotAdmitted("time-past", f"{name} is before 2020.")


def _admit_time_ahead(name: str, time: datetime) -> None:
    if time > LATEST:
        raise NotAdmitted("time-ahead", f"{name} is after the year 9998.")
    if time < EARLIEST:
        raise NotAdmitted("time-past", f"{name} is before 2020.")


def _times_ahead(event: EventBody) -> Iterator[tuple[str, datetime]]:
    """Yield name and value of each time that the event carries and that may lie ahead."""
    times: list[tuple[str, datetime | None]] = []
    if isinstance(event, WebhookAttempted):
        times = [("retryAt", event.retry_at), ("deadlineAt", event.deadline_at)]
    elif isinstance(event, ErasureRequested):
        times = [("before", event.before)]
    return ((name, time) for name, time in times if time is not None)


def _texts(event: EventBody) -> Iterator[tuple[str, str, int]]:
    """Yield name, text and limit of each text that the event carries besides its session's ids."""
    texts: list[tuple[str, str | None, int]] = []
    if isinstance(event, MessageSent):
        texts = [("message", event.message, MAX_MESSAGE_BYTES)]
    elif isinstance(event, AttemptEvent):
        texts = [("executionId", event.execution_id, MAX_TEXT_BYTES), *_attempt_texts(event)]
    elif isinstance(event, ReplyDelta):
        texts = [("text", event.text, MAX_REPLY_BYTES)]
    elif isinstance(event, CancelRequested):
        texts = [
            ("requestedBy", event.requested_by, MAX_TEXT_BYTES),
            ("reason", event.reason, MAX_TEXT_BYTES),
        ]
    elif isinstance(event, TimeoutSweep | ErasureRequested):
        texts = [("requestedBy", event.requested_by, MAX_TEXT_BYTES)]
    return ((name, text, limit) for name, text, limit in texts if text is not None)


def _attempt_texts(event: AttemptEvent) -> list[tuple[str, str | None, int]]:
    if isinstance(event, WebhookSucceeded):
        return [("reply", event.reply, MAX_REPLY_BYTES)]
    if isinstance(event, WebhookAttempted | WebhookFailed):
        return [
            ("errorMessage", event.error_message, MAX_TEXT_BYTES),
            ("responseBody", event.response_body, MAX_TEXT_BYTES),
        ]
    return []


def _admit_characters(name: str, value: str) -> None:
    if not _storable(value):
        raise NotAdmitted("characters", f"{name} contains U+0000 or a lone surrogate.")


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
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
