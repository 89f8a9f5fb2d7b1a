"""Events for tests, with everything filled in that a test does not care about."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.contracts.events import (
    CancelRequested,
    MessageSent,
    SessionEvent,
    TimeoutSweep,
    WebhookAttempted,
    WebhookFailed,
    WebhookSucceeded,
)
from services.contracts.ids import id_time, new_id
from services.contracts.session import AttemptOutcome, FailureKind


class SessionEvents:
    """Makes the events of one session, each a second after the one before unless told otherwise."""

    def __init__(
        self, *, session_id: UUID | None = None, conversation: str = "c1", persona: str = "p1", user: str = "u1"
    ) -> None:
        self.session_id = session_id or new_id()
        self._identity = {
            "session_id": self.session_id,
            "conversation_id": conversation,
            "persona_id": persona,
            "user_id": user,
        }
        self._clock = id_time(self.session_id)

    def _common(self, at: datetime | None, **more: Any) -> dict[str, Any]:
        self._clock += timedelta(milliseconds=10)
        return {"event_id": new_id(), "occurred_at": at or self._clock, **self._identity, **more}

    def sent(self, message: str = "hello", *, at: datetime | None = None, **more: Any) -> MessageSent:
        return MessageSent(**self._common(at, message=message, metadata={"userAgent": "tests"}, **more))

    def attempted(self, attempt: int = 1, *, at: datetime | None = None, **more: Any) -> WebhookAttempted:
        fields = {"outcome": AttemptOutcome.FAILED, "failure_kind": FailureKind.CONNECT, "duration_ms": 5, **more}
        return WebhookAttempted(**self._common(at, attempt=attempt, **fields))

    def succeeded(self, reply: str = "hi", *, attempt: int = 1, at: datetime | None = None) -> WebhookSucceeded:
        return WebhookSucceeded(**self._common(at, attempt=attempt, reply=reply, status_code=200, duration_ms=12))

    def failed(
        self, kind: FailureKind = FailureKind.WORKFLOW_ERROR, *, attempt: int = 1, at: datetime | None = None
    ) -> WebhookFailed:
        return WebhookFailed(
            **self._common(at, attempt=attempt, failure_kind=kind, error_message="It broke.", duration_ms=7)
        )

    def cancelled(self, *, by: str = "u1", at: datetime | None = None) -> CancelRequested:
        return CancelRequested(**self._common(at, requested_by=by, reason="changed my mind"))


def sweep(*, as_of: datetime | None = None, max_age_hours: float | None = 24.0, dry_run: bool = False) -> TimeoutSweep:
    now = datetime.now(UTC)
    sweep_id = new_id()
    return TimeoutSweep(
        event_id=sweep_id,
        occurred_at=now,
        sweep_id=sweep_id,
        as_of=as_of or now,
        requested_by="admin",
        max_age_hours=max_age_hours,
        dry_run=dry_run,
    )


def in_another_name(event: SessionEvent, **identity: str) -> SessionEvent:
    """Return the event as if it told of another conversation, persona or user."""
    return event.model_copy(update={"event_id": new_id(), **identity})
