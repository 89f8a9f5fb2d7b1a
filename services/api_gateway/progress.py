"""How far the tracker has folded: what tells a session that does not exist from one that is not there yet."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import func, select

from services.api_gateway.database import Database
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.problems import Problem, no_such_session
from services.api_gateway.waits import until_told
from services.contracts.admission import CLOCK_SKEW, EARLIEST
from services.contracts.ids import id_time
from services.contracts.topics import GROUP_TOPICS, TRACKER_GROUP
from services.database.tables import fold_progress

T = TypeVar("T")

FRESH_SECONDS = 5.0
"""Folding passes a moment 1 s (its margin for clocks), a fetch of up to 0.5 s and a write a second later: half of this.

The rest is for a machine that is busy.
"""
LOOK_AGAIN_SECONDS = 0.2
PUBLISHED_WITHIN = timedelta(seconds=30)
"""After its id was minted, a session's first event is in Kafka by then, or its publisher has been told otherwise."""

_FOLDED = GROUP_TOPICS[TRACKER_GROUP]


async def folded_up_to(database: Database) -> datetime | None:
    """Return the time up to which every partition is folded; None while some have never been."""
    table = fold_progress.c
    statement = select(func.count(), func.min(table.folded_up_to)).where(
        table.topic.in_([topic.name for topic in _FOLDED])
    )
    async with database.statements() as connection:
        count, reached = (await connection.execute(statement)).one()
    return reached if count >= sum(topic.partitions for topic in _FOLDED) else None


def decided_at(session_id: UUID, now: datetime) -> datetime:
    """Return the time that folding must pass before a session unknown at `now` is known not to exist.

    Whoever asks for a session that he sent had it acknowledged before he asked.
    """
    return min(now, id_time(session_id) + PUBLISHED_WITHIN)


def can_exist(session_id: UUID, now: datetime) -> bool:
    """Tell whether any session that services admit at `now` can have this id."""
    return session_id.version == 7 and EARLIEST <= id_time(session_id) <= now + CLOCK_SKEW


async def found_or_decided(
    read: Callable[[], Awaitable[T | None]],
    session_id: UUID,
    database: Database,
    changes: SessionChanges,
) -> T:
    """Return what `read` finds of the session, waiting a moment for the tracker where it is fresh.

    Raises Problem 404 once folding has passed the session's time, 503 `not-yet-tracked` if it has not within 5 s.
    """
    now = datetime.now(UTC)
    if not can_exist(session_id, now):
        raise no_such_session()
    found = await read()
    if found is not None:
        return found
    decided = decided_at(session_id, now)

    async def look() -> T | None:
        # Progress is read first: what it has passed is then in the table.
        reached = await folded_up_to(database)
        late = await read()
        if late is None and reached is not None and reached >= decided:
            raise no_such_session()
        return late

    with changes.waiter(session_id) as waiter:
        told = await until_told(
            look, waiter.nap, lambda: changes.stopping, seconds=FRESH_SECONDS, look_again_seconds=LOOK_AGAIN_SECONDS
        )
    if told is None:
        raise Problem(
            503,
            "not-yet-tracked",
            "This session is too new for the tracker to have told of it; try again in a moment.",
            headers={"retry-after": "1"},
        )
    return told
