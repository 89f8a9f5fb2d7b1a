"""The audit log, as admins read it: the newest entries first."""

import base64
import binascii
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_

from services.api_gateway.database import Database
from services.api_gateway.problems import invalid_cursor
from services.database.tables import audit_log

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = struct.Struct(">q16s")


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """What an entry must be to stand in the list; None asks for nothing."""

    actor: str | None = None
    user: str | None = None
    """The actor, too, by the name that end users have here."""
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Not included."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an entry in the log."""

    at: datetime
    entry_id: UUID


async def read_audit(database: Database, filters: AuditFilters, before: Place | None, limit: int) -> dict[str, Any]:
    """Return one page; raises DatabaseAway while PostgreSQL is."""
    table = audit_log.c
    statement = select(audit_log).order_by(table.at.desc(), table.id.desc()).limit(limit + 1)
    for column, value in (
        (table.actor, filters.actor),
        (table.actor, filters.user),
        (table.action, filters.action),
        (table.outcome, filters.outcome),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if filters.since is not None:
        statement = statement.where(table.at >= filters.since)
    if filters.until is not None:
        statement = statement.where(table.at < filters.until)
    if before is not None:
        # By itself the comparison of both would not tell PostgreSQL which months it can leave out.
        statement = statement.where(table.at <= before.at, tuple_(table.at, table.id) < (before.at, before.entry_id))
    async with database.statements() as connection:
        rows = [row._asdict() for row in (await connection.execute(statement)).all()]
    items = rows[:limit]
    return {"items": items, "nextCursor": _cursor(items[-1]) if len(rows) > limit else None}


def read_cursor(cursor: str) -> Place:
    """Return the place that a cursor names; Problem 400 where it is none of ours."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        microseconds, entry_id = _CURSOR.unpack(raw)
        return Place(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=entry_id))
    except (binascii.Error, ValueError, struct.error, OverflowError):
        raise invalid_cursor() from None


def _cursor(entry: dict[str, Any]) -> str:
    raw = _CURSOR.pack((entry["at"] - _EPOCH) // timedelta(microseconds=1), entry["id"].bytes)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
