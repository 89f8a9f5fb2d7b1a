"""One fixed event of every class, and a moment at which all of them are admitted."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.contracts import (
    AttemptOutcome,
    CancelRequested,
    ErasureRequested,
    Event,
    FailureKind,
    MessageSent,
    ReplyDelta,
    SessionChanged,
    SessionStatus,
    TimeoutSweep,
    WebhookAttempted,
    WebhookFailed,
    WebhookSucceeded,
)
from services.contracts.policy import CallPolicy

NOW = datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)
SOURCE = "/chat-sessions/test"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

SESSION_ID = UUID("019a14c5-1c00-7abc-8def-0123456789ab")
EVENT_ID = UUID("019a14c5-1c01-7abc-8def-0123456789ab")


def message_sent(**changes: object) -> MessageSent:
    fields: dict[str, object] = {
        "event_id": EVENT_ID,
        "occurred_at": NOW,
        "session_id": SESSION_ID,
        "conversation_id": "conversation-1",
        "persona_id": "echo",
        "user_id": "user-1",
        "message": "Grüße, Welt ☂ 𝄞",
        "metadata": {"userAgent": "curl/8", "nested": {"list": [1, 2.5, None, True, "x"]}},
        "template_id": "welcome",
        "resumed_from": UUID("019a14c5-0000-7abc-8def-0123456789ab"),
        "template_version": 3,
        "call_policy": CallPolicy(timeout_seconds=5, max_attempts=1, idempotent=False),
    }
    return MessageSent.model_validate(fields | changes)


def attempted(**changes: object) -> WebhookAttempted:
    return WebhookAttempted.model_validate(
        _of_session()
        | {
            "attempt": 1,
            "duration_ms": 1204,
            "status_code": 502,
            "connect_ms": 2,
            "first_byte_ms": 1200,
            "outcome": AttemptOutcome.FAILED,
            "failure_kind": FailureKind.HTTP_5XX,
            "error_message": "The webhook answered 502.",
            "retry_at": NOW + timedelta(seconds=1),
            "deadline_at": NOW + timedelta(seconds=60),
            "response_body": "bad gateway",
            "execution_id": "4711",
        }
        | changes
    )


def succeeded(**changes: object) -> WebhookSucceeded:
    return WebhookSucceeded.model_validate(
        _of_session()
        | {
            "attempt": 2,
            "duration_ms": 350,
            "status_code": 200,
            "connect_ms": 0,
            "first_byte_ms": 349,
            "execution_id": "4712",
            "reply": 'Hello "you"\n',
        }
        | changes
    )


def failed(**changes: object) -> WebhookFailed:
    return WebhookFailed.model_validate(
        _of_session()
        | {
            "attempt": 3,
            "duration_ms": 10_000,
            "failure_kind": FailureKind.TIMEOUT,
            "error_message": "The webhook did not answer within 10 s.",
        }
        | changes
    )


def cancel_requested(**changes: object) -> CancelRequested:
    return CancelRequested.model_validate(
        _of_session() | {"requested_by": "user-1", "reason": "asked the wrong persona"} | changes
    )


def erasure_requested(**changes: object) -> ErasureRequested:
    return ErasureRequested.model_validate(
        {
            "event_id": EVENT_ID,
            "occurred_at": NOW,
            "conversation_id": "conversation-1",
            "user_id": "user-1",
            "requested_by": "admin-1",
            "before": NOW - timedelta(days=30),
        }
        | changes
    )


def timeout_sweep(**changes: object) -> TimeoutSweep:
    return TimeoutSweep.model_validate(
        {
            "event_id": EVENT_ID,
            "occurred_at": NOW,
            "sweep_id": EVENT_ID,
            "as_of": NOW,
            "requested_by": "schedule",
            "max_age_hours": 24.0,
            "dry_run": True,
        }
        | changes
    )


def session_changed(**changes: object) -> SessionChanged:
    return SessionChanged.model_validate(
        _of_session()
        | {
            "version": 2,
            "status": SessionStatus.COMPLETED,
            "previous_status": SessionStatus.ACTIVE,
            "started_at": NOW,
            "ended_at": NOW + timedelta(milliseconds=350),
            "last_activity_at": NOW + timedelta(milliseconds=350),
            "metadata": {"userAgent": "curl/8"},
            "error_message": None,
            "failure_kind": None,
            "attempts": 2,
            "response_ms": 350,
            "resumed_from": None,
            "template_id": "welcome",
            "deadline_at": None,
            "template_version": 3,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }
        | changes
    )


def reply_delta(**changes: object) -> ReplyDelta:
    return ReplyDelta.model_validate(_of_session() | {"attempt": 2, "index": 0, "text": "Grüße "} | changes)


def one_of_each() -> tuple[Event, ...]:
    return (
        message_sent(),
        attempted(),
        succeeded(),
        failed(),
        cancel_requested(),
        erasure_requested(),
        timeout_sweep(),
        session_changed(),
        reply_delta(),
    )


def _of_session() -> dict[str, object]:
    return {
        "event_id": EVENT_ID,
        "occurred_at": NOW,
        "session_id": SESSION_ID,
        "conversation_id": "conversation-1",
        "persona_id": "echo",
        "user_id": "user-1",
    }
