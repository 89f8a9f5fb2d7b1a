"""The events that tell how a call of a webhook ended, or a message without one. No I/O."""

from datetime import datetime, timedelta
from typing import Any, TypeVar

from services.contracts import AttemptOutcome, FailureKind, WebhookAttempted, WebhookFailed, WebhookSucceeded, new_id
from services.contracts.events import ResultEvent
from services.contracts.replies import Reply
from services.webhook_dispatcher.callbacks import Accepted
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.delivery import Failed
from services.webhook_dispatcher.outcomes import Exchange
from services.webhook_dispatcher.tracking import Message

T = TypeVar("T", WebhookAttempted, WebhookSucceeded, WebhookFailed)


def ended(
    message: Message, exchange: Exchange, verdict: Reply | Accepted | Failed, now: datetime, delay: float | None
) -> ResultEvent:
    """Return how the message's call ended; `delay` is in how many seconds it is made again, None if it is not."""
    told = _timings(exchange.course, exchange.duration_ms)
    if isinstance(verdict, Reply):
        return _event(WebhookSucceeded, message, now, **told, status_code=exchange.status, reply=verdict.text)
    told["status_code"] = verdict.status
    if isinstance(verdict, Accepted):
        told |= {"outcome": AttemptOutcome.ACCEPTED, "deadline_at": verdict.deadline_at}
        return _event(WebhookAttempted, message, now, **told)
    told |= {
        "failure_kind": verdict.kind,
        "error_message": verdict.explanation,
        "response_body": verdict.response_body,
    }
    if delay is None:
        return _event(WebhookFailed, message, now, **told)
    told |= {"outcome": AttemptOutcome.FAILED, "retry_at": now + timedelta(seconds=delay)}
    return _event(WebhookAttempted, message, now, **told)


def cancelled(message: Message, course: Course, duration_ms: int, now: datetime) -> WebhookAttempted:
    """Return that the message's call was broken off by a cancel."""
    told = _timings(course, duration_ms)
    return _event(WebhookAttempted, message, now, **told, outcome=AttemptOutcome.CANCELLED)


def given_up(message: Message, kind: FailureKind, explanation: str, now: datetime) -> WebhookFailed:
    """Return that the message is failed without another call."""
    return _event(WebhookFailed, message, now, duration_ms=0, failure_kind=kind, error_message=explanation)


def _timings(course: Course, duration_ms: int) -> dict[str, Any]:
    return {
        "duration_ms": duration_ms,
        "connect_ms": course.connect_ms,
        "first_byte_ms": course.first_byte_ms,
        "execution_id": course.execution_id,
    }


def _event(kind: type[T], message: Message, now: datetime, **told: Any) -> T:
    sent = message.event
    return kind(
        event_id=new_id(),
        occurred_at=now,
        session_id=sent.session_id,
        conversation_id=sent.conversation_id,
        persona_id=sent.persona_id,
        user_id=sent.user_id,
        attempt=max(1, message.attempt),
        **told,
    )
