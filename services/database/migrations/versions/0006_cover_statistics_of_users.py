"""Statistics of a user are counted from an index alone.

Writing sessions waits while the index is built: some seconds for each ten million of them.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NAME = "ix_chat_sessions_userId_sessionId"
_COUNTED = ["personaId", "status", "startedAt", "failureKind", "responseMs"]


def upgrade() -> None:
    op.drop_index(_NAME, table_name="chat_sessions")
    op.create_index(_NAME, "chat_sessions", ["userId", "sessionId"], postgresql_include=_COUNTED)


def downgrade() -> None:
    op.drop_index(_NAME, table_name="chat_sessions")
    op.create_index(_NAME, "chat_sessions", ["userId", "sessionId"])
