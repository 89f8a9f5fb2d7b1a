"""Sessions that ended by the clock are written down until they are told, whatever ended them; before, by each sweep."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "untold_chunks",
        sa.Column("chunkId", sa.Uuid(), nullable=False),
        sa.Column("sessionIds", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.PrimaryKeyConstraint("chunkId", name="pk_untold_chunks"),
    )
    op.execute("""INSERT INTO untold_chunks SELECT "sweepId", untold FROM sweeps WHERE untold <> '{}'""")
    op.drop_column("sweeps", "untold")


def downgrade() -> None:
    op.add_column("sweeps", sa.Column("untold", sa.ARRAY(sa.Uuid()), server_default=sa.text("'{}'"), nullable=False))
    op.execute('UPDATE sweeps SET untold = "sessionIds" FROM untold_chunks WHERE "chunkId" = "sweepId"')
    op.drop_table("untold_chunks")
