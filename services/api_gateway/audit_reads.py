"""The audit log, as admins read it: the newest entries first."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, tuple_

from services.api_gateway.database import Database
from services.api_gateway.places import Place, cursor_of
from services.database.audit import USER_TARGET
from services.database.audit_words import Action, Outcome, names_of
from services.database.tables import audit_log


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """What an entry must be to stand in the list; None asks for nothing."""

    actor: str | None = None
    user: str | None = None
    """The actor or the target, by the name that end users have here."""
    action: Action | None = None
    outcome: Outcome | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Not included."""


async def read_audit(database: Database, filters: AuditFilters, before: Place | None, limit: int) -> dict[str, Any]:
    """Return one page; raises DatabaseAway while PostgreSQL is."""
    table = audit_log.c
    statement = select(audit_log).order_by(table.at.desc(), table.id.desc()).limit(limit + 1)
    for column, value in (
        (table.actor, filters.actor),
        (table.outcome, filters.outcome),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if filters.user is not None:
        statement = statement.where(or_(table.actor == filters.user, table.target == f"{USER_TARGET}{filters.user}"))
    if filters.action is not None:
        statement = statement.where(table.action.in_(names_of(filters.action)))
    if filters.since is not None:
        statement = statement.where(table.at >= filters.since)
    if filters.until is not None:
        statement = statement.where(table.at < filters.until)
    if before is not None:
        # By itself the comparison of both would not tell PostgreSQL which months it can leave out.
        statement = statement.where(table.at <= before.at, tuple_(table.at, table.id) < before)
    async with database.statements() as connection:
        rows = [row._asdict() for row in (await connection.execute(statement)).all()]
    items = rows[:limit]
    more = len(rows) > limit
    return {"items": items, "nextCursor": cursor_of(Place(items[-1]["at"], items[-1]["id"])) if more else None}
