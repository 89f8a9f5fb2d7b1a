"""The state machine of a session: the only place that decides what an event does to it. No I/O, no clock.

ACTIVE → COMPLETED   the webhook answered
       → FAILED      the webhook failed for good
       → TIMEOUT     swept
       → CANCELLED   its user, or an admin, cancelled it

Once a session has ended, its ending never changes. `MessageSent` and `WebhookAttempted` still fill in what they know,
so that any order of events, with one ending among them, gives the same session.
"""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple
from uuid import UUID

from services.contracts.events import (
    AttemptEvent,
    CancelRequested,
    MessageSent,
    Metadata,
    SessionEvent,
    TimeoutSweep,
    TrackedEvent,
    WebhookAttempted,
    WebhookFailed,
    WebhookSucceeded,
)
from services.contracts.ids import id_time
from services.contracts.session import FailureKind, SessionStatus

ACTIVE, COMPLETED, FAILED = SessionStatus.ACTIVE, SessionStatus.COMPLETED, SessionStatus.FAILED
TIMEOUT, CANCELLED = SessionStatus.TIMEOUT, SessionStatus.CANCELLED

_NOTHING, _MILLISECOND = timedelta(), timedelta(milliseconds=1)

LifecycleEvent = TrackedEvent | TimeoutSweep


class Effect(Enum):
    """What an event does to a session of a given status."""

    FILL = auto()
    """It adds what it knows; the status stays."""
    END = auto()
    """It ends the session with the event's own status."""
    LATE = auto()
    """It comes after the end: kept in the history, marked late, and changes nothing."""


FILL, END, LATE = Effect.FILL, Effect.END, Effect.LATE

ENDING: dict[type[LifecycleEvent], SessionStatus] = {
    WebhookSucceeded: COMPLETED,
    WebhookFailed: FAILED,
    CancelRequested: CANCELLED,
    TimeoutSweep: TIMEOUT,
}
"""The status that each terminal event gives."""

EFFECTS: dict[tuple[SessionStatus, type[SessionEvent | TimeoutSweep]], Effect] = {
    **{(status, filling): Effect.FILL for status in SessionStatus for filling in (MessageSent, WebhookAttempted)},
    **{(ACTIVE, ending): Effect.END for ending in ENDING},
    **{(ended, ending): Effect.LATE for ended in (COMPLETED, FAILED, TIMEOUT, CANCELLED) for ending in ENDING},
}
"""Every pair that may meet. A pair that is not listed is refused by name."""


class NotInLifecycle(Exception):
    """An event of a kind that never applies to a session of this status: a bug in whoever asked."""


class Session(NamedTuple):
    """A session as its events tell it. `version` counts the events that changed it.

    A tuple, because a fold makes several of each session: a frozen dataclass takes five times as long.
    """

    session_id: UUID
    conversation_id: str
    persona_id: str
    user_id: str
    status: SessionStatus
    started_at: datetime
    ended_at: datetime | None
    last_activity_at: datetime
    metadata: Metadata
    error_message: str | None
    failure_kind: FailureKind | None
    attempts: int
    response_ms: int | None
    version: int
    resumed_from: UUID | None
    template_id: str | None
    deadline_at: datetime | None
    template_version: int | None
    trace_id: str | None
    """Of the record that brought its message."""


def opened(event: SessionEvent) -> Session:
    """Return the session that the event belongs to, as it is before any event: ACTIVE since its id's own time."""
    started_at = id_time(event.session_id)
    return Session(
        session_id=event.session_id,
        conversation_id=event.conversation_id,
        persona_id=event.persona_id,
        user_id=event.user_id,
        status=ACTIVE,
        started_at=started_at,
        ended_at=None,
        last_activity_at=started_at,
        metadata={},
        error_message=None,
        failure_kind=None,
        attempts=0,
        response_ms=None,
        version=0,
        resumed_from=None,
        template_id=None,
        deadline_at=None,
        template_version=None,
        trace_id=None,
    )


def effect(status: SessionStatus, event: LifecycleEvent) -> Effect:
    """Return what the event does to a session of this status; raise NotInLifecycle for an unlisted pair."""
    try:
        return EFFECTS[status, type(event)]
    except KeyError:
        raise NotInLifecycle(f"{type(event).__name__} does not apply to a session that is {status}.") from None


def apply(session: Session, event: LifecycleEvent) -> Session | None:
    """Return the session after the event, None where the event is late."""
    what = effect(session.status, event)
    if what is LATE:
        return None
    return _ended(session, event) if what is END else _filled(session, event)


def same_identity(session: Session, event: SessionEvent, erased_as: str | None = None) -> bool:
    """Tell whether the event names the session's own conversation, persona and user.

    `erased_as` is the id that stands for the event's user where his data is erased: the session's may be either.
    """
    return (session.conversation_id, session.persona_id) == (event.conversation_id, event.persona_id) and (
        session.user_id in (event.user_id, erased_as)
    )


def _filled(session: Session, event: LifecycleEvent) -> Session:
    active_at = max(session.last_activity_at, event.occurred_at)
    if type(event) is MessageSent:
        return session._replace(
            last_activity_at=active_at,
            metadata=session.metadata or event.metadata,
            template_id=session.template_id or event.template_id,
            template_version=session.template_version or event.template_version,
            resumed_from=session.resumed_from or event.resumed_from,
            version=session.version + 1,
        )
    if type(event) is WebhookAttempted:
        return session._replace(
            last_activity_at=active_at,
            attempts=max(session.attempts, event.attempt),
            deadline_at=max(filter(None, (session.deadline_at, event.deadline_at)), default=None),
            version=session.version + 1,
        )
    raise NotInLifecycle(f"{type(event).__name__} fills nothing in.")


def _ended(session: Session, event: LifecycleEvent) -> Session:
    status = ENDING[type(event)]
    ended_at = event.as_of if type(event) is TimeoutSweep else event.occurred_at
    responded = max(_NOTHING, ended_at - session.started_at) // _MILLISECOND
    return session._replace(
        status=status,
        ended_at=ended_at,
        last_activity_at=(
            session.last_activity_at
            if type(event) is TimeoutSweep
            else max(session.last_activity_at, event.occurred_at)
        ),
        error_message=_error_message(event),
        failure_kind=event.failure_kind if type(event) is WebhookFailed else None,
        response_ms=responded if status is COMPLETED else None,
        attempts=max(session.attempts, event.attempt) if isinstance(event, AttemptEvent) else session.attempts,
        version=session.version + 1,
    )


def _error_message(event: LifecycleEvent) -> str | None:
    if type(event) is WebhookFailed:
        return event.error_message
    if type(event) is CancelRequested:
        return event.reason
    if type(event) is TimeoutSweep:
        return f"No activity for {_spoken(event.max_age_hours)}." if event.max_age_hours else "No activity."
    return None


def _spoken(hours: float) -> str:
    if hours >= 1:
        told, unit = f"{hours:g}", "hour"
    elif hours * 60 >= 1:
        told, unit = f"{hours * 60:.3g}", "minute"
    else:
        told, unit = f"{hours * 3600:.2g}", "second"
    return f"{told} {unit}" if told == "1" else f"{told} {unit}s"
