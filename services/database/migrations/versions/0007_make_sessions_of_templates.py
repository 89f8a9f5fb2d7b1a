"""Session templates with their versions; a session names the version that its message was made of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chat_sessions", sa.Column("templateVersion", sa.Integer(), nullable=True))
    op.create_table(
        "templates",
        sa.Column("templateId", sa.Text(), nullable=False),
        sa.Column("latestVersion", sa.Integer(), nullable=False),
        sa.Column("deletedAt", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("templateId", name="pk_templates"),
    )
    op.create_table(
        "template_versions",
        sa.Column("templateId", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("personaId", sa.Text(), nullable=False),
        sa.Column("callPolicy", postgresql.JSONB(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("createdBy", sa.Text(), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["templateId"], ["templates.templateId"], name="fk_template_versions_templateId"),
        sa.PrimaryKeyConstraint("templateId", "version", name="pk_template_versions"),
    )


def downgrade() -> None:
    op.drop_table("template_versions")
    op.drop_table("templates")
    op.drop_column("chat_sessions", "templateVersion")
