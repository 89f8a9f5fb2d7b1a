"""What is asked to be erased, and of whom older events come in without personal data; conversations by their owner.

Claiming conversations waits while their index is built: some seconds for each ten million of them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UNFINISHED = sa.text('"finishedAt" IS NULL')


def upgrade() -> None:
    op.create_index("ix_conversations_userId_conversationId", "conversations", ["userId", "conversationId"])
    op.create_table(
        "erasure_requests",
        sa.Column("erasureId", sa.Uuid(), nullable=False),
        sa.Column("userId", sa.Text(), nullable=True),
        sa.Column("userName", sa.Text(), nullable=False),
        sa.Column("requestedBy", sa.Text(), nullable=False),
        sa.Column("before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.Text(), nullable=True),
        sa.Column("asked", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("workerUntil", sa.DateTime(timezone=True), nullable=True),
        sa.Column("askedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("conversations", sa.BigInteger(), nullable=True),
        sa.Column("sessions", sa.BigInteger(), nullable=True),
        sa.Column("messages", sa.BigInteger(), nullable=True),
        sa.Column("events", sa.BigInteger(), nullable=True),
        sa.Column("finishedAt", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("erasureId", name="pk_erasure_requests"),
    )
    op.create_index("ix_erasure_requests_createdAt", "erasure_requests", ["createdAt"], postgresql_where=UNFINISHED)
    op.create_table(
        "erasures",
        sa.Column("userId", sa.Text(), nullable=False),
        sa.Column("before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requestedBy", sa.Text(), nullable=False),
        sa.Column("begunAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("conversations", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sessions", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("messages", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finishedAt", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("userId", "before", name="pk_erasures"),
    )
    op.create_index("ix_erasures_begunAt", "erasures", ["begunAt"])
    op.create_index("ix_erasures_unfinished", "erasures", ["begunAt"], postgresql_where=UNFINISHED)


def downgrade() -> None:
    op.drop_table("erasures")
    op.drop_table("erasure_requests")
    op.drop_index("ix_conversations_userId_conversationId", table_name="conversations")
