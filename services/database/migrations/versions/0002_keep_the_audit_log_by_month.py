"""The audit log is kept by month and only ever added to; old idempotency keys are found by their time."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.database.append_only import AFTER_CREATE, AFTER_DROP, NO_TRUNCATE

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INDEXED = ("action", "actor", "outcome")
_SET_ASIDE = "CREATE TEMPORARY TABLE audit_log_before ON COMMIT DROP AS SELECT * FROM audit_log"
_MONTHS = "SELECT DISTINCT date_trunc('month', at, 'UTC') AS month FROM audit_log_before"
# Who acted was not told apart before; names stay as they were written.
_MOVE = """
INSERT INTO audit_log (id, at, "actorKind", actor, action, target, outcome, details)
SELECT id, at, CASE WHEN actor = 'session-tracker' THEN 'system' WHEN outcome = 'refused' THEN 'user' ELSE 'admin' END,
       actor, action, target, outcome, details
  FROM audit_log_before
"""
_MOVE_BACK = """
INSERT INTO audit_log (id, at, actor, action, target, outcome, details)
SELECT id, at, actor, action, target, outcome, details FROM audit_log_before
"""


def upgrade() -> None:
    op.create_index("ix_idempotency_keys_createdAt", "idempotency_keys", ["createdAt"], unique=False)
    op.execute(_SET_ASIDE)
    op.drop_index("ix_audit_log_at", table_name="audit_log")
    op.drop_table("audit_log")
    op.create_table(
        "audit_log",
        *_columns(),
        sa.Column("actorKind", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("at", "id", name="pk_audit_log"),
        postgresql_partition_by="RANGE (at)",
    )
    for column in _INDEXED:
        op.create_index(f"ix_audit_log_{column}_at_id", "audit_log", [column, "at", "id"], unique=False)
    for statement in AFTER_CREATE:
        op.execute(statement)
    for month in op.get_bind().scalars(sa.text(_MONTHS)).all():
        name = f"audit_log_{month:%Y_%m}"
        op.execute(
            f"CREATE TABLE {name} PARTITION OF audit_log"
            f" FOR VALUES FROM ('{month.isoformat()}') TO (timestamptz '{month.isoformat()}' + interval '1 month')"
        )
        op.execute(NO_TRUNCATE.format(table=name))
    op.execute(_MOVE)


def downgrade() -> None:
    op.execute(_SET_ASIDE)
    op.drop_table("audit_log")
    op.create_table("audit_log", *_columns(), sa.PrimaryKeyConstraint("id", name="pk_audit_log"))
    op.create_index("ix_audit_log_at", "audit_log", ["at"], unique=False)
    op.execute(_MOVE_BACK)
    for statement in AFTER_DROP:
        op.execute(statement)
    op.drop_index("ix_idempotency_keys_createdAt", table_name="idempotency_keys")


def _columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
