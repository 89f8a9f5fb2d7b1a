"""The shapes of answers, for the OpenAPI document; the tests hold real answers against them."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from services.contracts.session import FailureKind, MessageRole, SessionStatus
from services.database.audit import ActorKind


class Shape(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Accepted(Shape):
    """A message that Kafka has acknowledged, and the session that it opened."""

    session_id: UUID
    conversation_id: str
    persona_id: str
    status: Literal[SessionStatus.ACTIVE]
    started_at: datetime


class Session(Shape):
    """A session as the tracker committed it."""

    id: UUID = Field(
        description="Always the same as sessionId: records have both, and one key, which serves for either"
    )
    conversation_id: str
    persona_id: str
    user_id: str
    session_id: UUID = Field(description="What calls and events name the session by")
    status: SessionStatus
    started_at: datetime
    ended_at: datetime | None
    last_activity_at: datetime
    metadata: dict[str, Any]
    error_message: str | None
    failure_kind: FailureKind | None
    attempts: int
    response_ms: int | None = Field(description="From start to end, of COMPLETED ones")
    version: int
    resumed_from: UUID | None
    template_id: str | None
    deadline_at: datetime | None
    template_version: int | None = Field(description="Of the template that its message was made of")
    trace_id: str | None = Field(description="Of the W3C trace that its message belongs to, from its POST to its fold")


class EndedSession(Session):
    """A session that ended while its sender waited."""

    reply: str | None = Field(description="Null unless COMPLETED")


class LeftSession(Shape):
    """A session that has ended, and that a filter found only while it was ACTIVE."""

    session_id: UUID
    version: int
    status: SessionStatus


class ReplyPiece(Shape):
    """A piece of a reply that is still being written."""

    attempt: int = Field(description="A higher one begins the reply anew")
    index: int = Field(description="From 0 in each attempt; where one is missing, the whole comes at the end")
    text: str


class Message(Shape):
    """What was said."""

    role: MessageRole
    content: str | None = Field(description="Null after an erasure")
    created_at: datetime


class Happening(BaseModel):
    """One event of a session, with whatever its type tells (attempt, statusCode, requestedBy, …)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="MessageSent, WebhookAttempted, WebhookSucceeded, …")
    at: datetime
    late: bool = Field(description="Came after the session had ended, and changed nothing")


class SessionDetail(Session):
    """A session with all that happened to it."""

    messages: list[Message]
    timeline: list[Happening] = Field(description="The first 200 events in the order of their times")
    timeline_cursor: str | None = Field(description="Give it as cursor to …/events for what follows; null: this is all")
    duration_ms: int = Field(description="Until its end, or until now")


class History(Shape):
    """One page of a session's events."""

    items: list[Happening]
    next_cursor: str | None = Field(description="Give it as cursor for the next page; null on the last")


class SessionList(Shape):
    """One page of sessions."""

    items: list[Session]
    next_cursor: str | None = Field(description="Give it as cursor for the next page; null on the last")
    total: int = Field(description="Counted up to 1,000")
    total_capped: bool = Field(description="There are more than total")
    limit: int
    offset: int


class ResponseTimes(Shape):
    """Milliseconds from start to end of COMPLETED sessions; the percentiles within 2 %."""

    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Counts(Shape):
    """Statistics of some sessions."""

    total: int
    active: int
    by_status: dict[SessionStatus, int]
    success_rate: float = Field(description="COMPLETED / total; 0 where there are none")
    response_ms: ResponseTimes
    failures: dict[FailureKind, int]


class Point(Counts):
    """Statistics of one interval."""

    from_: datetime = Field(alias="from")


class PersonaGroup(Counts):
    """Statistics of one persona."""

    key: str = Field(description="The persona's id")


class CountGroup(Shape):
    """How many sessions there are of one status, or of one kind of failure."""

    key: str
    total: int


class Statistics(Counts):
    """Statistics of a range."""

    groups: list[PersonaGroup] | list[CountGroup] | None = Field(
        None, description="With groupBy, over the whole range, the largest first; of personas at most 100"
    )
    series: list[Point] | None = Field(None, description="With interval, every minute, hour, day or week of the range")


class Sweep(Shape):
    """What a cleanup did."""

    sweep_id: UUID
    requested_by: str
    as_of: datetime
    max_age_hours: float
    dry_run: bool
    timed_out: int = Field(description="Of a dry run: how many would have been")
    failed_chunks: int
    finished_at: datetime | None


class SweepAsked(Shape):
    """A cleanup that has not ended yet."""

    sweep_id: UUID
    as_of: datetime
    dry_run: bool


class Persona(Shape):
    """A persona without its credentials."""

    persona_id: str
    webhook_url: str
    timeout_seconds: float
    max_attempts: int
    deadline_seconds: float
    first_byte_seconds: float | None
    idle_seconds: float | None
    session_timeout_hours: float | None
    paused: bool = Field(description="Its messages wait")
    idempotent: bool
    callback_seconds: float | None = Field(description="How long its reply by callback may take; null: it answers")
    has_auth: bool
    has_signing_keys: bool
    n8n_api_url: str | None = Field(alias="n8nApiUrl", description="Where cancelled executions are stopped")
    has_n8n_api_key: bool = Field(alias="hasN8nApiKey")
    created_at: datetime
    updated_at: datetime
    warnings: list[str] | None = Field(None, description="What may be wrong with it")


class PersonaList(Shape):
    """One page of personas."""

    items: list[Persona]
    next_cursor: str | None


class CallbackTaken(Shape):
    """A reply by callback that Kafka has acknowledged."""

    session_id: UUID


class AuditEntry(Shape):
    """One act, or the end of a webhook call that failed."""

    id: UUID
    at: datetime
    actor_kind: ActorKind = Field(
        description="Whether an end user, an admin, a service for someone, or a process acted"
    )
    actor: str = Field(description="By name; of an end user a keyed hash")
    action: str = Field(description="What was done or refused; of an old entry, as it was named then")
    target: str
    outcome: str
    address: str | None = Field(description="Where the request came from; never of end users")
    details: dict[str, Any]


class AuditList(Shape):
    """One page of the audit log."""

    items: list[AuditEntry]
    next_cursor: str | None


class FieldError(Shape):
    """What is wrong with one field."""

    field: str
    message: str
    position: int | None = Field(None, description="Of a filter: how many characters of it stand before the place")
    allowed: list[str] | None = Field(None, description="What could stand there")


class ProblemDetails(BaseModel):
    """An error (RFC 9457). Programs decide by `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    trace_id: str = Field(alias="traceId", description="Of the request's trace, and on the lines of the log about it")
    errors: list[FieldError] | None = None
