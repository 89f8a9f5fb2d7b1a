"""The tables of bulk jobs: what each is to do and how far it is, and what became of each session."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.database.metadata import Time, metadata

jobs = Table(
    "jobs",
    metadata,
    Column("jobId", Uuid, key="job_id", primary_key=True),
    Column("requestedBy", Text, key="requested_by", nullable=False),
    Column("action", Text, key="action", nullable=False),
    Column("filter", Text, key="filter"),
    Column("ids", ARRAY(Uuid), key="ids"),
    Column("reason", Text, key="reason"),
    Column("dryRun", Boolean, key="dry_run", nullable=False),
    Column("perSecond", Integer, key="per_second", nullable=False),
    Column("state", Text, key="state", nullable=False),
    Column("error", Text, key="error"),
    Column("done", BigInteger, key="done", nullable=False, server_default="0"),
    Column("skipped", BigInteger, key="skipped", nullable=False, server_default="0"),
    Column("position", Uuid, key="position"),
    Column("worker", Uuid, key="worker"),
    Column("workerUntil", Time, key="worker_until"),
    Column("createdAt", Time, key="created_at", nullable=False),
    Column("finishedAt", Time, key="finished_at"),
)
Index(None, jobs.c.created_at)

job_items = Table(
    "job_items",
    metadata,
    Column("jobId", Uuid, ForeignKey(jobs.c.job_id, ondelete="CASCADE"), key="job_id", nullable=False),
    Column("sessionId", Uuid, key="session_id", nullable=False),
    Column("outcome", Text, key="outcome", nullable=False),
    Column("code", Text, key="code"),
    Column("eventId", Uuid, key="event_id", nullable=False),
    Column("newSessionId", Uuid, key="new_session_id"),
    PrimaryKeyConstraint("job_id", "session_id"),
)
