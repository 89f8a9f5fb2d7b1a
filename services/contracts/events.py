"""Every event that services exchange: one frozen class each, and their union.

A class says by `ce_type` and `topic` how it travels; the fields are its JSON body, in camelCase. Unknown fields are
ignored, so that fields can be added within v1.
"""

from datetime import datetime
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, Field, JsonValue

from services.contracts.exchanged import Exchanged
from services.contracts.policy import CallPolicy
from services.contracts.session import AttemptOutcome, FailureKind, SessionStatus
from services.contracts.topics import CONTROL, DELTAS, MESSAGES, RESULTS, SESSIONS, SWEEPS, Topic

Attempt = Annotated[int, Field(ge=1, le=10_000)]
Milliseconds = Annotated[int, Field(ge=0, lt=2**53)]
StatusCode = Annotated[int, Field(ge=100, le=999)]
DeltaIndex = Annotated[int, Field(ge=0, lt=2**31)]
Hours = Annotated[float, Field(gt=0, le=24 * 366 * 100, allow_inf_nan=False)]
TemplateVersion = Annotated[int, Field(ge=1, lt=2**31)]
Metadata = dict[str, JsonValue]
Identity = tuple[str, str, str]
"""Conversation, persona and user of a session."""


class EventBody(Exchanged):
    """What all events have in common: an id of their own and the time they happened."""

    ce_type: ClassVar[str]
    topic: ClassVar[Topic]

    event_id: UUID
    occurred_at: AwareDatetime


class SessionEvent(EventBody):
    """An event of one session, with enough to build the session's row from whichever event arrives first."""

    session_id: UUID
    conversation_id: str
    persona_id: str
    user_id: str

    @property
    def identity(self) -> Identity:
        """What is the same in all events of a session: one that says otherwise is not this session's."""
        return self.conversation_id, self.persona_id, self.user_id


class MessageSent(SessionEvent):
    """A user sent a message to a persona: opens the session.

    `template_id` and `template_version` name the template that it was made of, whose settings it carries itself: the
    defaults in `metadata`, and how it is to be called in `call_policy`.
    """

    ce_type: ClassVar[str] = "chat.MessageSent.v1"
    topic: ClassVar[Topic] = MESSAGES

    message: str
    metadata: Metadata = Field(default_factory=dict)
    template_id: str | None = None
    resumed_from: UUID | None = None
    template_version: TemplateVersion | None = None
    call_policy: CallPolicy | None = None


class AttemptEvent(SessionEvent):
    """What every event about one call of the webhook tells. Times are milliseconds since the call began.

    `connect_ms` is when a connection was to be had, a new one (name, TCP and TLS) or one kept from before, and
    `first_byte_ms` when the answer's headers were there; absent where the call did not come so far.
    """

    attempt: Attempt
    duration_ms: Milliseconds
    status_code: StatusCode | None = None
    connect_ms: Milliseconds | None = None
    first_byte_ms: Milliseconds | None = None
    execution_id: str | None = None


class WebhookAttempted(AttemptEvent):
    """An attempt that did not end its session: it failed and is tried again, was cancelled, or was accepted."""

    ce_type: ClassVar[str] = "chat.WebhookAttempted.v1"
    topic: ClassVar[Topic] = RESULTS

    outcome: AttemptOutcome
    failure_kind: FailureKind | None = None
    error_message: str | None = None
    retry_at: AwareDatetime | None = None
    deadline_at: AwareDatetime | None = None
    response_body: str | None = None


class WebhookSucceeded(AttemptEvent):
    """The persona replied: completes the session."""

    ce_type: ClassVar[str] = "chat.WebhookSucceeded.v1"
    topic: ClassVar[Topic] = RESULTS

    reply: str
    status_code: StatusCode


class WebhookFailed(AttemptEvent):
    """The webhook failed for good: fails the session."""

    ce_type: ClassVar[str] = "chat.WebhookFailed.v1"
    topic: ClassVar[Topic] = RESULTS

    failure_kind: FailureKind
    error_message: str
    response_body: str | None = None


class CancelRequested(SessionEvent):
    """The session's user, or an admin, cancels it."""

    ce_type: ClassVar[str] = "chat.CancelRequested.v1"
    topic: ClassVar[Topic] = CONTROL

    requested_by: str
    reason: str | None = None


class ErasureRequested(EventBody):
    """A user's personal data is to be erased, as far as it is of sessions that began before `before`.

    One is published for each conversation of the user, so that whoever keeps something of one conversation learns of
    it in its order. Any of them erases the user's data everywhere.
    """

    ce_type: ClassVar[str] = "chat.ErasureRequested.v1"
    topic: ClassVar[Topic] = CONTROL

    conversation_id: str
    user_id: str
    requested_by: str
    before: AwareDatetime


class TimeoutSweep(EventBody):
    """Sessions that saw no activity for `max_age_hours` before `as_of` are to time out. `event_id` = `sweep_id`."""

    ce_type: ClassVar[str] = "chat.TimeoutSweep.v1"
    topic: ClassVar[Topic] = SWEEPS

    sweep_id: UUID
    as_of: AwareDatetime
    requested_by: str
    max_age_hours: Hours | None = None
    dry_run: bool = False


class SessionChanged(SessionEvent):
    """The session as the tracker committed it. Consumers ignore versions not above the last one they saw."""

    ce_type: ClassVar[str] = "chat.SessionChanged.v1"
    topic: ClassVar[Topic] = SESSIONS

    version: int
    status: SessionStatus
    previous_status: SessionStatus | None = None
    started_at: datetime
    ended_at: datetime | None = None
    last_activity_at: datetime
    metadata: Metadata
    error_message: str | None = None
    failure_kind: FailureKind | None = None
    attempts: int
    response_ms: int | None = None
    resumed_from: UUID | None = None
    template_id: str | None = None
    deadline_at: datetime | None = None
    template_version: int | None = None
    trace_id: str | None = None


class ReplyDelta(SessionEvent):
    """A piece of a reply that is still being written, for whoever watches: not kept, and no part of the history.

    `text` follows on the piece with the index before, from 0 in each attempt: a higher attempt begins the reply
    anew, and a gap means that pieces were dropped. The whole reply comes with WebhookSucceeded alone.
    """

    ce_type: ClassVar[str] = "chat.ReplyDelta.v1"
    topic: ClassVar[Topic] = DELTAS

    attempt: Attempt
    index: DeltaIndex
    text: str


ResultEvent = WebhookAttempted | WebhookSucceeded | WebhookFailed
TrackedEvent = MessageSent | ResultEvent | CancelRequested
"""The events that the tracker folds into a session."""

Event = TrackedEvent | ErasureRequested | TimeoutSweep | SessionChanged | ReplyDelta

EVENT_CLASSES: tuple[type[Event], ...] = (
    MessageSent,
    WebhookAttempted,
    WebhookSucceeded,
    WebhookFailed,
    CancelRequested,
    ErasureRequested,
    TimeoutSweep,
    SessionChanged,
    ReplyDelta,
)
