"""Erasures as the fold meets them: they begin between two folds, and every later one keeps nothing personal."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import ErasureRequested
from services.database.partitions import id_at
from services.database.tables import erasures
from services.runtime.pseudonyms import Pseudonyms, is_erased
from services.session_tracker.faults import postgres_faults
from services.session_tracker.fold import Arrival

_WAIT = text("SET LOCAL lock_timeout = '2s'")
_LOCK = text("LOCK TABLE erasures IN EXCLUSIVE MODE")


async def begin(engine: AsyncEngine, requests: Sequence[ErasureRequested]) -> None:
    """Write the requests down; when this returns, every fold that runs knows of them.

    Waits for folds that began before, at most 2 s, and new ones wait as long: whatever such a fold wrote can be seen
    by who erases. Raises PassingFault where that takes too long or PostgreSQL is not to be had.
    """
    due = {(request.user_id, request.before): request.requested_by for request in requests}
    key = erasures.c.user_id, erasures.c.before
    with postgres_faults():
        async with engine.begin() as connection:
            # Each comes once for every conversation, and would stop the folds each time.
            for known in await connection.execute(select(*key).where(tuple_(*key).in_([*due]))):
                del due[known[0], known[1]]
            if not due:
                return
            await connection.execute(_WAIT)
            await connection.execute(_LOCK)
            rows = [
                {"user_id": user_id, "before": before, "requested_by": requested_by}
                for (user_id, before), requested_by in sorted(due.items())
            ]
            # By the clock: now() is when the transaction began, before it waited.
            written = insert(erasures).values(begun_at=func.clock_timestamp()).on_conflict_do_nothing()
            await connection.execute(written, rows)


def told_of(
    befores: Iterable[tuple[str, datetime]], arrivals: Sequence[Arrival], pseudonyms: Pseudonyms
) -> list[Arrival]:
    """Return the arrivals, with what stands for its user beside each event whose session's data is erased.

    That is of sessions that began before the latest erasure of their user, whenever their events come, and of those
    that are already known by what stands for him.
    """
    latest: dict[str, datetime] = {}
    for user_id, before in befores:
        latest[user_id] = max(before, latest.get(user_id, before))
    ends = {user_id: id_at(before).int for user_id, before in latest.items()}

    def told(arrival: Arrival) -> Arrival:
        user_id = arrival.event.user_id
        if arrival.event.session_id.int < ends.get(user_id, 0):
            return arrival._replace(erased_as=pseudonyms.erased(user_id))
        return arrival._replace(erased_as=user_id) if is_erased(user_id) else arrival

    return [told(arrival) for arrival in arrivals]
