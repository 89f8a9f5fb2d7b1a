"""Personas can be paused; bulk jobs, and what became of each of their sessions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("personas", sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "jobs",
        sa.Column("jobId", sa.Uuid(), nullable=False),
        sa.Column("requestedBy", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=True),
        sa.Column("ids", postgresql.ARRAY(sa.Uuid()), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("dryRun", sa.Boolean(), nullable=False),
        sa.Column("perSecond", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("position", sa.Uuid(), nullable=True),
        sa.Column("worker", sa.Uuid(), nullable=True),
        sa.Column("workerUntil", sa.DateTime(timezone=True), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finishedAt", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("jobId", name="pk_jobs"),
    )
    op.create_index("ix_jobs_createdAt", "jobs", ["createdAt"], unique=False)
    op.create_table(
        "job_items",
        sa.Column("jobId", sa.Uuid(), nullable=False),
        sa.Column("sessionId", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("eventId", sa.Uuid(), nullable=False),
        sa.Column("newSessionId", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["jobId"], ["jobs.jobId"], name="fk_job_items_jobId", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("jobId", "sessionId", name="pk_job_items"),
    )


def downgrade() -> None:
    op.drop_table("job_items")
    op.drop_index("ix_jobs_createdAt", table_name="jobs")
    op.drop_table("jobs")
    op.drop_column("personas", "paused")
