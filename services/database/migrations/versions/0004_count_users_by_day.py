"""Of users only days of ended sessions are kept; their hours and their ACTIVE sessions are no longer counted."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM session_rollups WHERE granularity = 'hour' AND scope >= 'user:' AND scope < 'user;'")
    op.execute(
        "UPDATE session_rollups SET active = 0"
        " WHERE granularity = 'day' AND scope >= 'user:' AND scope < 'user;' AND active <> 0"
    )


def downgrade() -> None:
    """Nothing: the trackers of before find what is missing, and add it."""
