"""The tables of session templates: which is the latest version of each, and all versions, which never change."""

from sqlalchemy import Column, ForeignKey, Integer, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.database.metadata import Time, metadata

templates = Table(
    "templates",
    metadata,
    Column("templateId", Text, key="template_id", primary_key=True),
    Column("latestVersion", Integer, key="latest_version", nullable=False),
    Column("deletedAt", Time, key="deleted_at"),
)

template_versions = Table(
    "template_versions",
    metadata,
    Column("templateId", Text, ForeignKey(templates.c.template_id), key="template_id", nullable=False),
    Column("version", Integer, key="version", nullable=False),
    Column("personaId", Text, key="persona_id", nullable=False),
    Column("callPolicy", JSONB, key="call_policy", nullable=False),
    Column("metadata", JSONB, key="metadata", nullable=False),
    Column("tags", ARRAY(Text), key="tags", nullable=False),
    Column("createdBy", Text, key="created_by", nullable=False),
    Column("createdAt", Time, key="created_at", nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("template_id", "version"),
)
