"""Templates in PostgreSQL: a PUT adds a version, and no version ever changes."""

from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.template_bodies import Template, TemplateBody
from services.contracts.policy import CallPolicy
from services.database.tables import template_versions, templates

_template, _version = templates.c, template_versions.c
_POLICY = TypeAdapter(CallPolicy)


async def put_template(connection: AsyncConnection, template_id: str, body: TemplateBody, by: str) -> Row[Any]:
    """Return the version that says what the body says: the latest one if it does, else a new one, made by `by`."""
    first = insert(templates).values(template_id=template_id, latest_version=0).on_conflict_do_nothing()
    await connection.execute(first)
    mine = _template.template_id == template_id
    # Locked: two PUTs at once make two versions, one after the other.
    standing = (await connection.execute(select(templates).where(mine).with_for_update())).one()
    latest = await read_version(connection, template_id, standing.latestVersion)
    said = body.stored
    if latest is not None and standing.deletedAt is None and _says(latest) == said:
        return latest
    values = {"template_id": template_id, "version": standing.latestVersion + 1, "created_by": by, **said}
    row: Row[Any] = (
        await connection.execute(insert(template_versions).values(values).returning(template_versions))
    ).one()
    await connection.execute(update(templates).where(mine).values(latest_version=row.version, deleted_at=None))
    return row


async def delete_template(connection: AsyncConnection, template_id: str) -> bool:
    """Let no further message be made of the template; return False where there is none. Its versions stay."""
    there = _template.template_id == template_id, _template.deleted_at.is_(None)
    gone = update(templates).where(*there).values(deleted_at=func.now()).returning(_template.template_id)
    return await connection.scalar(gone) is not None


async def read_templates(connection: AsyncConnection, after: str | None, limit: int) -> list[Row[Any]]:
    """Return the latest versions of templates in the order of their ids, those after `after`."""
    statement = _latest().order_by(_template.template_id).limit(limit)
    if after is not None:
        statement = statement.where(_template.template_id > after)
    return list((await connection.execute(statement)).all())


async def read_template(connection: AsyncConnection, template_id: str) -> Row[Any] | None:
    """Return the latest version of the template, None where there is no template."""
    statement = _latest().where(_template.template_id == template_id)
    row: Row[Any] | None = (await connection.execute(statement)).one_or_none()
    return row


async def read_versions(connection: AsyncConnection, template_id: str, before: int, limit: int) -> list[Row[Any]]:
    """Return the template's versions, the newest first, those below `before`; of a deleted template too."""
    statement = select(template_versions).where(_version.template_id == template_id, _version.version < before)
    return list((await connection.execute(statement.order_by(_version.version.desc()).limit(limit))).all())


async def read_version(connection: AsyncConnection, template_id: str, version: int) -> Row[Any] | None:
    """Return this version, of a deleted template too; None where there is none."""
    its = _version.template_id == template_id, _version.version == version
    row: Row[Any] | None = (await connection.execute(select(template_versions).where(*its))).one_or_none()
    return row


async def usable_template(
    connection: AsyncConnection, template_id: str, version: int | None, as_of: datetime | None
) -> Template | None:
    """Return the version that a message is to be made of, or the latest; None where there is none, or no more.

    `as_of` asks for what would have been returned at that time.
    """
    statement = (
        select(template_versions)
        .join(templates, _template.template_id == _version.template_id)
        .where(_version.template_id == template_id)
        .order_by(_version.version.desc())
        .limit(1)
    )
    if version is not None:
        statement = statement.where(_version.version == version)
    if as_of is None:
        statement = statement.where(_template.deleted_at.is_(None))
    else:
        still_there = or_(_template.deleted_at.is_(None), _template.deleted_at > as_of)
        statement = statement.where(still_there, _version.created_at <= as_of)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _usable(row)


def shown(row: Row[Any]) -> dict[str, Any]:
    """Return a version as it is told."""
    return dict(row._mapping)


def _latest() -> Select[Any]:
    current = (_version.template_id == _template.template_id) & (_version.version == _template.latest_version)
    return select(template_versions).join(templates, current).where(_template.deleted_at.is_(None))


def _says(row: Row[Any]) -> dict[str, Any]:
    return {
        "persona_id": row.personaId,
        "call_policy": row.callPolicy,
        "metadata": row.metadata,
        "tags": row.tags,
    }


def _usable(row: Row[Any]) -> Template:
    policy = _POLICY.validate_python(row.callPolicy) if row.callPolicy else None
    return Template(row.templateId, row.version, row.personaId, policy, row.metadata, tuple(row.tags))
