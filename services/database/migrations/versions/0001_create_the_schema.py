"""The whole schema of the first release."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"], unique=False)
    op.create_table(
        "chat_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conversationId", sa.Text(), nullable=False),
        sa.Column("personaId", sa.Text(), nullable=False),
        sa.Column("userId", sa.Text(), nullable=False),
        sa.Column("sessionId", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum("ACTIVE", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", name="ChatSessionStatus"),
            nullable=False,
        ),
        sa.Column("startedAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("endedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lastActivityAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("errorMessage", sa.Text(), nullable=True),
        sa.Column("failureKind", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("responseMs", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("resumedFrom", sa.Uuid(), nullable=True),
        sa.Column("templateId", sa.Text(), nullable=True),
        sa.Column("deadlineAt", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint('id = "sessionId"', name=op.f("ck_chat_sessions_id_is_session_id")),
        sa.PrimaryKeyConstraint("sessionId", name="pk_chat_sessions"),
        postgresql_partition_by='RANGE ("sessionId")',
    )
    op.create_index(
        "ix_chat_sessions_conversationId_status_sessionId",
        "chat_sessions",
        ["conversationId", "status", "sessionId"],
        unique=False,
    )
    op.create_index(
        "ix_chat_sessions_deadlineAt",
        "chat_sessions",
        ["deadlineAt"],
        unique=False,
        postgresql_where=sa.text("status = 'ACTIVE' AND \"deadlineAt\" IS NOT NULL"),
    )
    op.create_index(
        "ix_chat_sessions_personaId_status_sessionId",
        "chat_sessions",
        ["personaId", "status", "sessionId"],
        unique=False,
    )
    op.create_index("ix_chat_sessions_userId_sessionId", "chat_sessions", ["userId", "sessionId"], unique=False)
    op.create_index(
        "ix_chat_sessions_lastActivityAt",
        "chat_sessions",
        ["lastActivityAt"],
        unique=False,
        postgresql_where=sa.text("status = 'ACTIVE'"),
    )
    op.create_index("ix_chat_sessions_userId_status", "chat_sessions", ["userId", "status"], unique=False)
    op.create_table(
        "conversations",
        sa.Column("conversationId", sa.Text(), nullable=False),
        sa.Column("userId", sa.Text(), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("conversationId", name="pk_conversations"),
    )
    op.create_table(
        "dropped_months",
        sa.Column("month", sa.DateTime(timezone=True), nullable=False),
        sa.Column("droppedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("month", name="pk_dropped_months"),
    )
    op.create_table(
        "fold_progress",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("foldedUpTo", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name="pk_fold_progress"),
        postgresql_with={"fillfactor": 75},
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("userId", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("bodyHash", sa.LargeBinary(), nullable=False),
        sa.Column("sessionId", sa.Uuid(), nullable=False),
        sa.Column("eventId", sa.Uuid(), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sentAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("publishedAt", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("userId", "key", name="pk_idempotency_keys"),
    )
    op.create_table(
        "maintenance_progress",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("doneUpTo", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("task", name="pk_maintenance_progress"),
    )
    op.create_table(
        "personas",
        sa.Column("personaId", sa.Text(), nullable=False),
        sa.Column("webhookUrl", sa.Text(), nullable=False),
        sa.Column("timeoutSeconds", sa.Double(), server_default="10", nullable=False),
        sa.Column("maxAttempts", sa.Integer(), server_default="3", nullable=False),
        sa.Column("deadlineSeconds", sa.Double(), server_default="60", nullable=False),
        sa.Column("idempotent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("firstByteSeconds", sa.Double(), nullable=True),
        sa.Column("idleSeconds", sa.Double(), nullable=True),
        sa.Column("callbackSeconds", sa.Double(), nullable=True),
        sa.Column("sessionTimeoutHours", sa.Double(), nullable=True),
        sa.Column("auth", sa.LargeBinary(), nullable=True),
        sa.Column("signingKeys", sa.LargeBinary(), nullable=True),
        sa.Column("n8nApiUrl", sa.Text(), nullable=True),
        sa.Column("n8nApiKey", sa.LargeBinary(), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("personaId", name="pk_personas"),
    )
    op.create_table(
        "rollup_checks",
        sa.Column("pace", sa.Text(), nullable=False),
        sa.Column("position", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checkedAt", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pace", name="pk_rollup_checks"),
    )
    op.create_table(
        "session_events",
        sa.Column("sessionId", sa.Uuid(), nullable=False),
        sa.Column("eventId", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("occurredAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recordedAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("late", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("sessionId", "eventId", name="pk_session_events"),
        postgresql_partition_by='RANGE ("sessionId")',
    )
    op.create_table(
        "session_rollups",
        sa.Column("granularity", sa.Text(collation="C"), nullable=False),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scope", sa.Text(collation="C"), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("active", sa.BigInteger(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("timeout", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("responseMsSum", sa.BigInteger(), nullable=False),
        sa.Column("failureKinds", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("failureCounts", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("responseBuckets", postgresql.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("responseCounts", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.PrimaryKeyConstraint("granularity", "bucket", "scope", "shard", name="pk_session_rollups"),
        postgresql_with={"fillfactor": 75},
    )
    op.create_table(
        "sweeps",
        sa.Column("sweepId", sa.Uuid(), nullable=False),
        sa.Column("requestedBy", sa.Text(), nullable=False),
        sa.Column("asOf", sa.DateTime(timezone=True), nullable=False),
        sa.Column("maxAgeHours", sa.Double(), nullable=False),
        sa.Column("dryRun", sa.Boolean(), nullable=False),
        sa.Column("timedOut", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failedChunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("untold", sa.ARRAY(sa.Uuid()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("finishedAt", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("sweepId", name="pk_sweeps"),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("chatSessionId", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Enum("user", "persona", name="MessageRole"), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["chatSessionId"], ["chat_sessions.sessionId"], name="fk_messages_chatSessionId"),
        sa.PrimaryKeyConstraint("chatSessionId", "id", name="pk_messages"),
        postgresql_partition_by='RANGE ("chatSessionId")',
    )


def downgrade() -> None:
    op.drop_table("messages")
    op.drop_table("sweeps")
    op.drop_table("session_rollups")
    op.drop_table("session_events")
    op.drop_table("rollup_checks")
    op.drop_table("personas")
    op.drop_table("maintenance_progress")
    op.drop_table("idempotency_keys")
    op.drop_table("fold_progress")
    op.drop_table("dropped_months")
    op.drop_table("conversations")
    op.drop_index("ix_chat_sessions_userId_status", table_name="chat_sessions")
    op.drop_index(
        "ix_chat_sessions_lastActivityAt", table_name="chat_sessions", postgresql_where=sa.text("status = 'ACTIVE'")
    )
    op.drop_index(
        "ix_chat_sessions_deadlineAt",
        table_name="chat_sessions",
        postgresql_where=sa.text("status = 'ACTIVE' AND \"deadlineAt\" IS NOT NULL"),
    )
    op.drop_index("ix_chat_sessions_userId_sessionId", table_name="chat_sessions")
    op.drop_index("ix_chat_sessions_personaId_status_sessionId", table_name="chat_sessions")
    op.drop_index("ix_chat_sessions_conversationId_status_sessionId", table_name="chat_sessions")
    op.drop_table("chat_sessions")
    op.drop_index("ix_audit_log_at", table_name="audit_log")
    op.drop_table("audit_log")
    op.execute('DROP TYPE "ChatSessionStatus"')
    op.execute('DROP TYPE "MessageRole"')
