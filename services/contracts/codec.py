"""Events to Kafka records and back: CloudEvents 1.0 in Kafka's binary mode.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from collections.abc import Iterable
from typing import NamedTuple, assert_never
from uuid import UUID

from pydantic import ValidationError

from services.contracts.errors import UndecodableRecord
from services.contracts.events import (
    EVENT_CLASSES,
    ErasureRequested,
    Event,
    SessionEvent,
    TimeoutSweep,
)

Headers = Iterable[tuple[str, bytes | None]]

_CLASSES = {event_class.ce_type: event_class for event_class in EVENT_CLASSES}
_SPECVERSION = ("ce_specversion", b"1.0")
_TYPES = {event_class: ("ce_type", event_class.ce_type.encode()) for event_class in EVENT_CLASSES}
_CONTENT_TYPE = ("content-type", b"application/json")


class Record(NamedTuple):
    """What a producer sends: `producer.send(*record[:2], key=…, headers=…)`, whatever client it uses."""

    topic: str
    value: bytes
    key: bytes
    headers: list[tuple[str, bytes]]


def encode(event: Event, *, source: str, traceparent: str | None = None) -> Record:
    """Return the record that carries `event`.

    `source` names the publisher (CloudEvents `source`, such as `/chat-sessions/gateway`); `traceparent` is the W3C
    trace context that consumers continue.
    """
    subject, key = _subject_and_key(event)
    headers = [
        _SPECVERSION,
        ("ce_id", str(event.event_id).encode()),
        _TYPES[type(event)],
        ("ce_source", source.encode()),
        ("ce_time", event.occurred_at.isoformat().encode()),
        ("ce_subject", subject.encode()),
        _CONTENT_TYPE,
    ]
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    value = event.model_dump_json(by_alias=True, exclude_none=True).encode()
    return Record(event.topic.name, value, key.encode(), headers)


def decode(topic: str, headers: Headers, value: bytes | None) -> Event:
    """Return the event that a record of `topic` carries.

    Raises UndecodableRecord, whose `reason` and text say why: no or unknown type, a type that does not travel on
    this topic, no body, or a body that is not what its type asks for.
    """
    ce_type = header(headers, "ce_type")
    if ce_type is None:
        raise UndecodableRecord("no-type", "The record has no ce_type header.")
    event_class = _CLASSES.get(ce_type)
    if event_class is None:
        raise UndecodableRecord("unknown-type", f"No event has the type {ce_type[:200]!r}.")
    if event_class.topic.name != topic:
        raise UndecodableRecord("wrong-topic", f"{ce_type} travels on {event_class.topic.name}, not on {topic}.")
    if value is None:
        raise UndecodableRecord("no-body", "The record has no value.")
    try:
        return event_class.model_validate_json(value)
    except ValidationError as error:
        raise UndecodableRecord("malformed", _summary(error)) from None


def header(headers: Headers, name: str) -> str | None:
    """Return the text of the first header with that name, None where it is absent, null or not UTF-8."""
    for key, value in headers:
        if key == name and value is not None:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


def session_id_of(headers: Headers) -> UUID | None:
    """Return the session that a record says it is about, whether or not it can be decoded; None without one."""
    event_class = _CLASSES.get(header(headers, "ce_type") or "")
    if event_class is None or not issubclass(event_class, SessionEvent):
        return None
    try:
        return UUID(header(headers, "ce_subject") or "")
    except ValueError:
        return None


def _subject_and_key(event: Event) -> tuple[str, str]:
    if isinstance(event, SessionEvent):
        return str(event.session_id), event.conversation_id
    if isinstance(event, ErasureRequested):
        return event.conversation_id, event.conversation_id
    if isinstance(event, TimeoutSweep):
        return str(event.sweep_id), str(event.sweep_id)
    assert_never(event)


def _summary(error: ValidationError) -> str:
    # The message names fields and rules, never values: a dead letter's headers are read more widely than its body.
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems[:5])
    return told if len(problems) <= 5 else f"{told}; and {len(problems) - 5} more"
