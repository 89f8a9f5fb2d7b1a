"""The tables of erasures: what was asked for (the gateway writes it) and what holds for every fold (the tracker)."""

from sqlalchemy import BigInteger, Column, Index, PrimaryKeyConstraint, Table, Text, Uuid

from services.database.metadata import Time, metadata

erasure_requests = Table(
    "erasure_requests",
    metadata,
    Column("erasureId", Uuid, key="erasure_id", primary_key=True),
    Column("userId", Text, key="user_id"),
    Column("userName", Text, key="user_name", nullable=False),
    Column("requestedBy", Text, key="requested_by", nullable=False),
    Column("before", Time, key="before", nullable=False),
    Column("createdAt", Time, key="created_at", nullable=False),
    Column("position", Text, key="position"),
    Column("asked", BigInteger, key="asked", nullable=False, server_default="0"),
    Column("workerUntil", Time, key="worker_until"),
    Column("askedAt", Time, key="asked_at"),
    Column("conversations", BigInteger, key="conversations"),
    Column("sessions", BigInteger, key="sessions"),
    Column("messages", BigInteger, key="messages"),
    Column("events", BigInteger, key="events"),
    Column("finishedAt", Time, key="finished_at"),
)
Index(None, erasure_requests.c.created_at, postgresql_where=erasure_requests.c.finished_at.is_(None))

erasures = Table(
    "erasures",
    metadata,
    Column("userId", Text, key="user_id", nullable=False),
    Column("before", Time, key="before", nullable=False),
    Column("requestedBy", Text, key="requested_by", nullable=False),
    Column("begunAt", Time, key="begun_at", nullable=False),
    Column("conversations", BigInteger, key="conversations", nullable=False, server_default="0"),
    Column("sessions", BigInteger, key="sessions", nullable=False, server_default="0"),
    Column("messages", BigInteger, key="messages", nullable=False, server_default="0"),
    Column("events", BigInteger, key="events", nullable=False, server_default="0"),
    Column("finishedAt", Time, key="finished_at"),
    PrimaryKeyConstraint("user_id", "before"),
)
Index(None, erasures.c.begun_at)
Index("ix_erasures_unfinished", erasures.c.begun_at, postgresql_where=erasures.c.finished_at.is_(None))
