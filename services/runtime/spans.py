"""The steps of a message's way, under OpenTelemetry's names for what they are.

https://opentelemetry.io/docs/specs/semconv/. Attributes name sessions, personas and failures: never users, texts, or
addresses with whatever a path or a query may hold. Without a tracer there is nothing to record, and nothing is made up
to be recorded.
"""

from collections.abc import Sequence

from services.contracts.events import Event, SessionEvent
from services.runtime.tracing import Attributes, Kind, Span, Tracer, Unrecorded

_KAFKA = {"messaging.system": "kafka"}
_SEND = {**_KAFKA, "messaging.operation.type": "send", "messaging.operation.name": "send"}
SESSION, PERSONA, ATTEMPT = "chat.session.id", "chat.persona.id", "chat.attempt"


def answering(tracer: Tracer, method: str, parent: str | None) -> Span:
    """Begin to answer an HTTP request."""
    return tracer.begin(method, Kind.SERVER, parent, {"http.request.method": method})


def answered(span: Span, method: str, route: str, status: int) -> None:
    """End the answering of a request, by its route's template: a path may be a credential, or name a user."""
    span.rename(f"{method} {route}")
    span.note({"http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.fail(str(status))
    span.end()


def sending(tracer: Tracer | None, event: Event, parent: str) -> Span:
    """Begin to send an event to its topic; the record continues the trace from this step."""
    if tracer is None:
        return Unrecorded(parent)
    topic = event.topic.name
    about: Attributes = (
        {SESSION: str(event.session_id), PERSONA: event.persona_id} if isinstance(event, SessionEvent) else {}
    )
    attributes: Attributes = {
        **_SEND,
        "messaging.destination.name": topic,
        "messaging.message.id": str(event.event_id),
        **about,
    }
    return tracer.begin(f"send {topic}", Kind.PRODUCER, parent, attributes)


def sending_batch(tracer: Tracer | None, topic: str, count: int, parent: str) -> Span:
    """Begin to send so many events to a topic at once."""
    if tracer is None:
        return Unrecorded(parent)
    attributes: Attributes = {
        **_SEND,
        "messaging.destination.name": topic,
        "messaging.batch.message_count": count,
    }
    return tracer.begin(f"send {topic}", Kind.PRODUCER, parent, attributes)


def delivering(
    tracer: Tracer, event: SessionEvent, group_id: str, partition: int, offset: int, parent: str | None
) -> Span:
    """Begin to deliver a message that came from its topic."""
    topic = event.topic.name
    attributes: Attributes = {
        **_KAFKA,
        "messaging.operation.type": "process",
        "messaging.operation.name": "deliver",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
        "messaging.consumer.group.name": group_id,
        "messaging.kafka.offset": offset,
        SESSION: str(event.session_id),
        PERSONA: event.persona_id,
    }
    return tracer.begin(f"deliver {topic}", Kind.CONSUMER, parent, attributes)


def calling(tracer: Tracer, event: SessionEvent, attempt: int, host: str | None, parent: str) -> Span:
    """Begin a call of a webhook."""
    again = {"http.request.resend_count": attempt - 1} if attempt > 1 else {}
    attributes: Attributes = {
        "http.request.method": "POST",
        "server.address": host or "unknown",
        SESSION: str(event.session_id),
        PERSONA: event.persona_id,
        ATTEMPT: attempt,
        **again,
    }
    return tracer.begin("POST", Kind.CLIENT, parent, attributes)


def folding(tracer: Tracer, group_id: str, records: int, messages: Sequence[str]) -> Span:
    """Begin to fold a batch: a trace of its own, linked to those of its messages, for it belongs to all of them."""
    attributes: Attributes = {
        **_KAFKA,
        "messaging.operation.type": "process",
        "messaging.operation.name": "fold",
        "messaging.consumer.group.name": group_id,
        "messaging.batch.message_count": records,
    }
    return tracer.begin("fold", Kind.CONSUMER, None, attributes, messages)


def writing(tracer: Tracer | None, table: str, rows: int, parent: str) -> Span:
    """Begin a transaction of PostgreSQL that writes a batch."""
    if tracer is None:
        return Unrecorded(parent)
    attributes: Attributes = {
        "db.system.name": "postgresql",
        "db.operation.name": "BATCH",
        "db.operation.batch.size": rows,
        "db.collection.name": table,
    }
    return tracer.begin(f"BATCH {table}", Kind.CLIENT, parent, attributes)
