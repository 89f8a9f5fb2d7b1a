"""The dispatcher's steps of a trace: a message's delivery, and in it each call of its webhook."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from services.contracts import MessageSent
from services.contracts.codec import header
from services.contracts.topics import DISPATCHER_GROUP
from services.runtime.records import RawRecord
from services.runtime.spans import calling, delivering
from services.runtime.tracing import Span, Tracer, Unrecorded, continued
from services.webhook_dispatcher.personas import Persona
from services.webhook_dispatcher.tracking import Message


def delivery_span(tracer: Tracer | None, record: RawRecord, event: MessageSent) -> Span:
    """Begin a message's delivery, from its arrival to its end."""
    traceparent = header(record.headers, "traceparent")
    if tracer is None:
        return Unrecorded(continued(traceparent))
    return delivering(tracer, event, DISPATCHER_GROUP, record.partition, record.offset, traceparent)


def call_span(tracer: Tracer | None, message: Message, persona: Persona) -> Span:
    """Begin the message's next call; its webhook continues the trace from here."""
    if tracer is None:
        return message.span
    host = urlsplit(persona.webhook_url).hostname
    return calling(tracer, message.event, message.attempt, host, message.traceparent)


def end_call(tracer: Tracer | None, message: Message, status: int | None, failure: str | None) -> None:
    """End the message's call, with the HTTP status of a whole answer and the kind of its failure, if it failed."""
    span = message.call_span
    if tracer is None or span is None:
        return
    if status is not None:
        span.note({"http.response.status_code": status})
    if failure is not None:
        span.fail(failure)
    span.end()


def end_released(messages: Iterable[Message]) -> None:
    """End the deliveries of messages that are another process's now."""
    for message in messages:
        message.span.fail("released")
        message.span.end()
