"""What operators decided about dead letters: replayed, or dropped with a reason."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dead_letter_dispositions",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("writtenAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disposition", sa.Text(), nullable=False),
        sa.Column("decidedBy", sa.Text(), nullable=False),
        sa.Column("decidedAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("topic", "offset", "writtenAt", name="pk_dead_letter_dispositions"),
    )


def downgrade() -> None:
    op.drop_table("dead_letter_dispositions")
