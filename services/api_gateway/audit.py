"""The log of administrative acts, done and refused. It is only ever added to."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database, DatabaseAway
from services.contracts.ids import new_id
from services.database.tables import audit_log

logger = logging.getLogger(__name__)

DONE = "done"
REFUSED = "refused"


async def record(
    connection: AsyncConnection,
    caller: Caller,
    action: str,
    target: str,
    *,
    outcome: str = DONE,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add one entry, in the caller's transaction."""
    entry = {
        "id": new_id(),
        "at": datetime.now(UTC),
        "actor": caller.user_id,
        "action": action,
        "target": target,
        "outcome": outcome,
        "details": dict(details or {}),
    }
    await connection.execute(insert(audit_log).values(entry))


async def record_refusal(database: Database, caller: Caller, action: str, target: str) -> None:
    """Add an entry for an act that its caller may not do; while PostgreSQL is away, only the log has it."""
    logger.warning("Refused: %s of %r by %r, who is no admin.", action, target, caller.user_id)
    try:
        async with database.statements() as connection:
            await record(connection, caller, action, target, outcome=REFUSED)
    except DatabaseAway as error:
        logger.warning("The refusal is not in the audit log: %s", error)
