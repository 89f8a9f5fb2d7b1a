"""Sessions name the trace that their message belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chat_sessions", sa.Column("traceId", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("chat_sessions", "traceId")
