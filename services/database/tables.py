"""The schema, as SQLAlchemy Core tables: camelCase in PostgreSQL, snake_case in Python.

`chat_sessions`, `messages` and `session_events` are partitioned by the month of the session's UUIDv7
(`partitions.py`), `audit_log` by that of its entries (`audit_partitions.py`). Alembic's migrations build exactly this;
a test compares the two.
"""

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.contracts.session import MessageRole, SessionStatus
from services.database.append_only import AFTER_CREATE, AFTER_DROP
from services.database.dead_letter_tables import dead_letter_dispositions
from services.database.erasure_tables import erasure_requests, erasures
from services.database.job_tables import job_items, jobs
from services.database.metadata import Time, metadata
from services.database.template_tables import template_versions, templates

__all__ = [  # beside what follows
    "Time",
    "dead_letter_dispositions",
    "erasure_requests",
    "erasures",
    "job_items",
    "jobs",
    "metadata",
    "template_versions",
    "templates",
]

Status = Enum(SessionStatus, name="ChatSessionStatus")
Role = Enum(MessageRole, name="MessageRole", values_callable=lambda roles: [role.value for role in roles])

_ROOM_TO_UPDATE = {"fillfactor": 75}
"""Rows that change after they are written leave room on their page, so that updates stay there (HOT)."""

chat_sessions = Table(
    "chat_sessions",
    metadata,
    Column("id", Uuid, key="id", nullable=False),
    Column("conversationId", Text, key="conversation_id", nullable=False),
    Column("personaId", Text, key="persona_id", nullable=False),
    Column("userId", Text, key="user_id", nullable=False),
    Column("sessionId", Uuid, key="session_id", nullable=False),
    Column("status", Status, key="status", nullable=False),
    Column("startedAt", Time, key="started_at", nullable=False),
    Column("endedAt", Time, key="ended_at"),
    Column("lastActivityAt", Time, key="last_activity_at", nullable=False),
    Column("metadata", JSONB, key="metadata", nullable=False, server_default=text("'{}'")),
    Column("errorMessage", Text, key="error_message"),
    Column("failureKind", Text, key="failure_kind"),
    Column("attempts", Integer, key="attempts", nullable=False, server_default="0"),
    Column("responseMs", BigInteger, key="response_ms"),
    Column("version", Integer, key="version", nullable=False),
    Column("resumedFrom", Uuid, key="resumed_from"),
    Column("templateId", Text, key="template_id"),
    Column("deadlineAt", Time, key="deadline_at"),
    Column("templateVersion", Integer, key="template_version"),
    Column("traceId", Text, key="trace_id"),
    PrimaryKeyConstraint("session_id"),
    CheckConstraint('id = "sessionId"', name="id_is_session_id"),
    postgresql_partition_by='RANGE ("sessionId")',
)
Index(None, chat_sessions.c.user_id, chat_sessions.c.status)
Index(
    None,
    chat_sessions.c.user_id,
    chat_sessions.c.session_id,
    # What statistics of a user count: his sessions lie next to each other here, and on as many pages in the table.
    postgresql_include=["persona_id", "status", "started_at", "failure_kind", "response_ms"],
)
Index(None, chat_sessions.c.conversation_id, chat_sessions.c.status, chat_sessions.c.session_id)
Index(None, chat_sessions.c.persona_id, chat_sessions.c.status, chat_sessions.c.session_id)
Index(
    None,
    chat_sessions.c.last_activity_at,
    postgresql_where=chat_sessions.c.status == SessionStatus.ACTIVE.value,
)
Index(
    None,
    chat_sessions.c.deadline_at,
    postgresql_where=and_(
        chat_sessions.c.status == SessionStatus.ACTIVE.value, chat_sessions.c.deadline_at.is_not(None)
    ),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Uuid, key="id", nullable=False),
    Column("chatSessionId", Uuid, ForeignKey(chat_sessions.c.session_id), key="chat_session_id", nullable=False),
    Column("role", Role, key="role", nullable=False),
    Column("content", Text, key="content"),
    Column("createdAt", Time, key="created_at", nullable=False),
    PrimaryKeyConstraint("chat_session_id", "id"),
    postgresql_partition_by='RANGE ("chatSessionId")',
)

session_events = Table(
    "session_events",
    metadata,
    Column("sessionId", Uuid, key="session_id", nullable=False),
    Column("eventId", Uuid, key="event_id", nullable=False),
    Column("type", Text, key="type", nullable=False),
    Column("occurredAt", Time, key="occurred_at", nullable=False),
    Column("recordedAt", Time, key="recorded_at", nullable=False),
    Column("late", Boolean, key="late", nullable=False, server_default=text("false")),
    Column("body", JSONB, key="body"),
    PrimaryKeyConstraint("session_id", "event_id"),
    postgresql_partition_by='RANGE ("sessionId")',
)

dropped_months = Table(
    "dropped_months",
    metadata,
    Column("month", Time, key="month", primary_key=True),
    Column("droppedAt", Time, key="dropped_at", nullable=False, server_default=text("now()")),
)

conversations = Table(
    "conversations",
    metadata,
    Column("conversationId", Text, key="conversation_id", primary_key=True),
    Column("userId", Text, key="user_id", nullable=False),
    Column("createdAt", Time, key="created_at", nullable=False, server_default=text("now()")),
)
Index(None, conversations.c.user_id, conversations.c.conversation_id)

personas = Table(
    "personas",
    metadata,
    Column("personaId", Text, key="persona_id", primary_key=True),
    Column("webhookUrl", Text, key="webhook_url", nullable=False),
    Column("timeoutSeconds", Double, key="timeout_seconds", nullable=False, server_default="10"),
    Column("maxAttempts", Integer, key="max_attempts", nullable=False, server_default="3"),
    Column("deadlineSeconds", Double, key="deadline_seconds", nullable=False, server_default="60"),
    Column("idempotent", Boolean, key="idempotent", nullable=False, server_default=text("false")),
    Column("firstByteSeconds", Double, key="first_byte_seconds"),
    Column("idleSeconds", Double, key="idle_seconds"),
    Column("callbackSeconds", Double, key="callback_seconds"),
    Column("sessionTimeoutHours", Double, key="session_timeout_hours"),
    Column("paused", Boolean, key="paused", nullable=False, server_default=text("false")),
    Column("auth", LargeBinary, key="auth"),
    Column("signingKeys", LargeBinary, key="signing_keys"),
    Column("n8nApiUrl", Text, key="n8n_api_url"),
    Column("n8nApiKey", LargeBinary, key="n8n_api_key"),
    Column("createdAt", Time, key="created_at", nullable=False, server_default=text("now()")),
    Column("updatedAt", Time, key="updated_at", nullable=False, server_default=text("now()")),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("userId", Text, key="user_id", nullable=False),
    Column("key", Text, key="key", nullable=False),
    Column("route", Text, key="route", nullable=False),
    Column("bodyHash", LargeBinary, key="body_hash", nullable=False),
    Column("sessionId", Uuid, key="session_id", nullable=False),
    Column("eventId", Uuid, key="event_id", nullable=False),
    Column("createdAt", Time, key="created_at", nullable=False),
    Column("sentAt", Time, key="sent_at", nullable=False),
    Column("publishedAt", Time, key="published_at"),
    PrimaryKeyConstraint("user_id", "key"),
)
Index(None, idempotency_keys.c.created_at)

fold_progress = Table(
    "fold_progress",
    metadata,
    Column("topic", Text, key="topic", nullable=False),
    Column("partition", Integer, key="partition", nullable=False),
    Column("foldedUpTo", Time, key="folded_up_to", nullable=False),
    PrimaryKeyConstraint("topic", "partition"),
    postgresql_with=_ROOM_TO_UPDATE,
)

maintenance_progress = Table(
    "maintenance_progress",
    metadata,
    Column("task", Text, key="task", primary_key=True),
    Column("doneUpTo", Uuid, key="done_up_to", nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("sweepId", Uuid, key="sweep_id", primary_key=True),
    Column("requestedBy", Text, key="requested_by", nullable=False),
    Column("asOf", Time, key="as_of", nullable=False),
    Column("maxAgeHours", Double, key="max_age_hours", nullable=False),
    Column("dryRun", Boolean, key="dry_run", nullable=False),
    Column("timedOut", BigInteger, key="timed_out", nullable=False, server_default="0"),
    Column("failedChunks", Integer, key="failed_chunks", nullable=False, server_default="0"),
    Column("finishedAt", Time, key="finished_at"),
)

untold_chunks = Table(
    "untold_chunks",
    metadata,
    Column("chunkId", Uuid, key="chunk_id", primary_key=True),
    Column("sessionIds", ARRAY(Uuid), key="session_ids", nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Uuid, key="id", nullable=False),
    Column("at", Time, key="at", nullable=False),
    Column("actorKind", Text, key="actor_kind", nullable=False),
    Column("actor", Text, key="actor", nullable=False),
    Column("action", Text, key="action", nullable=False),
    Column("target", Text, key="target", nullable=False),
    Column("outcome", Text, key="outcome", nullable=False),
    Column("address", Text, key="address"),
    Column("details", JSONB, key="details", nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("at", "id"),
    postgresql_partition_by="RANGE (at)",
)
Index(None, audit_log.c.actor, audit_log.c.at, audit_log.c.id)
Index(None, audit_log.c.action, audit_log.c.at, audit_log.c.id)
Index(None, audit_log.c.outcome, audit_log.c.at, audit_log.c.id)
for _statement in AFTER_CREATE:
    event.listen(audit_log, "after_create", DDL(_statement))  # type: ignore[no-untyped-call]
for _statement in AFTER_DROP:
    event.listen(audit_log, "after_drop", DDL(_statement))  # type: ignore[no-untyped-call]

_Bytewise = Text(collation="C")

session_rollups = Table(
    "session_rollups",
    metadata,
    Column("granularity", _Bytewise, key="granularity", nullable=False),
    Column("bucket", Time, key="bucket", nullable=False),
    Column("scope", _Bytewise, key="scope", nullable=False),
    Column("shard", SmallInteger, key="shard", nullable=False),
    Column("active", BigInteger, key="active", nullable=False),
    Column("completed", BigInteger, key="completed", nullable=False),
    Column("failed", BigInteger, key="failed", nullable=False),
    Column("timeout", BigInteger, key="timeout", nullable=False),
    Column("cancelled", BigInteger, key="cancelled", nullable=False),
    Column("responseMsSum", BigInteger, key="response_ms_sum", nullable=False),
    Column("failureKinds", ARRAY(Text), key="failure_kinds", nullable=False),
    Column("failureCounts", ARRAY(BigInteger), key="failure_counts", nullable=False),
    Column("responseBuckets", ARRAY(SmallInteger), key="response_buckets", nullable=False),
    Column("responseCounts", ARRAY(BigInteger), key="response_counts", nullable=False),
    # Time before scope: what is written now lies together, and so does what is checked or removed.
    PrimaryKeyConstraint("granularity", "bucket", "scope", "shard"),
    postgresql_with=_ROOM_TO_UPDATE,
)

rollup_checks = Table(
    "rollup_checks",
    metadata,
    Column("pace", Text, key="pace", primary_key=True),
    Column("position", Time, key="position", nullable=False),
    Column("checkedAt", Time, key="checked_at", nullable=False),
)
