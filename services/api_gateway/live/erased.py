"""Whose data was erased while Kafka may still have what was told of it: nobody is told that again."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from services.api_gateway.database import Database, DatabaseAway
from services.api_gateway.live.recent import Told
from services.contracts.topics import SESSIONS
from services.database.partitions import id_at
from services.database.tables import erasures

_KEPT = 2 * SESSIONS.retention
"""For as long a record can live: Kafka deletes whole segments."""


@dataclass(frozen=True, slots=True)
class Erased:
    """Users, and the lowest session id of each that is not erased."""

    ends: Mapping[str, UUID]

    def holds(self, told: Told) -> bool:
        """Tell whether what a change says is erased."""
        end = self.ends.get(told.user_id)
        return end is not None and UUID(told.session_id) < end


async def erased_lately(database: Database) -> Erased | None:
    """Return who was erased lately, as of now; None while PostgreSQL is away."""
    latest = select(erasures.c.user_id, func.max(erasures.c.before))
    latest = latest.where(erasures.c.begun_at > func.now() - _KEPT).group_by(erasures.c.user_id)
    try:
        async with database.statements() as connection:
            rows = (await connection.execute(latest)).all()
    except DatabaseAway:
        return None
    return Erased({user_id: id_at(before) for user_id, before in rows})
