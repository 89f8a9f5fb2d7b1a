"""How the tracker ends sessions by the clock, for sweeps and overdue callbacks: chunks, each its own transaction."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from services.contracts.events import WebhookFailed
from services.contracts.ids import new_id
from services.contracts.topics import TRACKER_GROUP
from services.database.driver import Driver
from services.session_tracker import statements as sql
from services.session_tracker.audit import failed_call, write_audit
from services.session_tracker.faults import RefusedByPostgres
from services.session_tracker.fold import Transition
from services.session_tracker.lifecycle import LifecycleEvent, Session, apply
from services.session_tracker.rows import columns, history_row
from services.session_tracker.store import add_counts, update_sessions

NO_PARTITION = -1
"""The rollup shard of sessions that end by the clock."""
CHUNK = 500
"""Sessions in one transaction."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far one pass has come among the sessions that are due, those due for longest first."""

    due_since: datetime
    session_id: UUID


START = Position(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sessions that one transaction ended, and where the next one goes on: None at the end.

    PostgreSQL keeps its id and theirs until they are told (`untold.py`).
    """

    chunk_id: UUID
    transitions: Sequence[Transition]
    next: Position | None


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends a session that is ACTIVE and locked, and how its history tells it."""

    session: Session
    event: LifecycleEvent
    event_id: UUID
    recorded_at: datetime


async def end_sessions(driver: Driver, endings: Sequence[Ending], next_: Position | None) -> Chunk:
    """End the sessions, with their history and counts, in the caller's transaction."""
    chunk_id = new_id()
    ended = [after for one in endings if (after := apply(one.session, one.event)) is not None]
    transitions = [
        Transition(after, one.session.status, NO_PARTITION) for one, after in zip(endings, ended, strict=True)
    ]
    await update_sessions(driver, ended)
    if endings:
        history = [history_row(one.event, one.session.session_id, one.event_id, one.recorded_at) for one in endings]
        await driver.execute(sql.INSERT_HISTORY, *columns(history))
        await driver.execute(sql.KEEP_UNTOLD, chunk_id, [session.session_id for session in ended])
    await add_counts(driver, transitions)
    await write_audit(
        driver, [failed_call(one.event, TRACKER_GROUP) for one in endings if isinstance(one.event, WebhookFailed)]
    )
    return Chunk(chunk_id, transitions, next_)


async def in_chunks(
    end: Callable[[Position, int], Awaitable[Chunk]],
    skip: Callable[[Position], Awaitable[Position | None]],
    size: int,
) -> AsyncIterator[Chunk]:
    """Yield what `end` does to each chunk, of at most `size` sessions, until it is through.

    A chunk that PostgreSQL refuses is tried again in smaller ones, so that only the session to blame is passed to
    `skip`: it stays due for longest, and would keep its neighbours out of every later pass too.
    """
    position: Position | None = START
    most = size
    while position is not None:
        try:
            chunk = await end(position, most)
        except RefusedByPostgres:
            if most == 1:
                position = await skip(position)
            most = max(1, most // 8)
            continue
        yield chunk
        position, most = chunk.next, min(size, most * 8)
