"""What a sweep reads and writes in PostgreSQL."""

from datetime import UTC, datetime

from asyncpg import Record
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import TimeoutSweep
from services.contracts.ids import derived_id
from services.database import tables as t
from services.database.audit import ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.driver import Driver
from services.session_tracker import statements as sql
from services.session_tracker.endings import Chunk, Ending, Position, end_sessions
from services.session_tracker.faults import postgres_faults
from services.session_tracker.lifecycle import Session
from services.session_tracker.rows import session_of
from services.session_tracker.store import SessionStore
from services.session_tracker.timeouts import REQUESTED_BY, Timeouts


class SweepStore:
    """Sweeps in PostgreSQL. Every method raises PassingFault where it is not to be had."""

    def __init__(self, engine: AsyncEngine, sessions: SessionStore) -> None:
        self._engine = engine
        self._sessions = sessions

    async def persona_timeouts(self) -> dict[str, float]:
        """Return the hours of the personas that have their own."""
        async with self._sessions.transaction() as driver:
            return {row[0]: row[1] for row in await driver.fetch(sql.READ_PERSONA_TIMEOUTS)}

    async def begin(self, sweep: TimeoutSweep, timeouts: Timeouts) -> bool:
        """Write the sweep down, once; return False where it has already finished."""
        row = {
            "sweep_id": sweep.sweep_id,
            "requested_by": sweep.requested_by,
            "as_of": sweep.as_of,
            "max_age_hours": timeouts.hours,
            "dry_run": sweep.dry_run,
        }
        with postgres_faults():
            async with self._engine.begin() as connection:
                await connection.execute(insert(t.sweeps).values(row).on_conflict_do_nothing())
                finished = select(t.sweeps.c.finished_at).where(t.sweeps.c.sweep_id == sweep.sweep_id)
                return await connection.scalar(finished) is None

    async def finish(self, sweep: TimeoutSweep, *, would_time_out: int | None = None) -> None:
        """Mark the sweep as finished; a dry run also says how many sessions it would have timed out."""
        values: dict[str, object] = {"finished_at": datetime.now(UTC)}
        if would_time_out is not None:
            values["timed_out"] = would_time_out
        done = update(t.sweeps).values(values).where(t.sweeps.c.sweep_id == sweep.sweep_id)
        with postgres_faults():
            async with self._engine.begin() as connection:
                counts = (
                    await connection.execute(done.returning(t.sweeps.c.timed_out, t.sweeps.c.failed_chunks))
                ).one()
                await connection.execute(
                    insert(t.audit_log),
                    entry(
                        ActorKind.SYSTEM if sweep.requested_by == REQUESTED_BY else ActorKind.ADMIN,
                        sweep.requested_by,
                        Action.SWEEP_DRY_RUN if sweep.dry_run else Action.SWEEP_RUN,
                        str(sweep.sweep_id),
                        Outcome.FINISHED,
                        details={"timedOut": counts.timed_out, "failedChunks": counts.failed_chunks},
                    ),
                )

    async def folded_past(self, moment: datetime) -> bool:
        """Tell whether every partition of messages, results and control is folded past `moment`."""
        folded = await self._sessions.folded_up_to()
        return folded is not None and folded >= moment

    async def count_stale(self, sweep: TimeoutSweep, timeouts: Timeouts) -> int:
        """Return how many sessions the sweep would time out."""
        async with self._sessions.transaction() as driver:
            return int(await driver.fetchval(sql.COUNT_STALE, *timeouts.limits(sweep.as_of)))

    async def time_out(self, sweep: TimeoutSweep, timeouts: Timeouts, position: Position, size: int) -> Chunk:
        """Time out the next stale sessions, at most `size`, in one transaction, with their history and counts.

        Sessions that the fold holds at this moment are left out: they have activity. Raises RefusedByPostgres where
        PostgreSQL does not take the chunk.
        """
        async with self._sessions.transaction() as driver:
            rows = await _lock_stale(driver, sweep, timeouts, position, size)
            endings = [_ending(session_of(row), sweep, timeouts) for row in rows]
            chunk = await end_sessions(driver, endings, _after(rows, size))
            if chunk.transitions:
                await driver.execute(sql.COUNT_TIMED_OUT, len(chunk.transitions), sweep.sweep_id)
        return chunk

    async def skip(self, sweep: TimeoutSweep, timeouts: Timeouts, position: Position) -> Position | None:
        """Count the session behind `position` as a failed chunk; return where the sweep goes on, None at the end."""
        async with self._sessions.transaction() as driver:
            rows = await _lock_stale(driver, sweep, timeouts, position, 1)
            await driver.execute(sql.COUNT_FAILED_CHUNK, sweep.sweep_id)
        return _after(rows, 1)


def _ending(session: Session, sweep: TimeoutSweep, timeouts: Timeouts) -> Ending:
    cause = sweep.model_copy(update={"max_age_hours": timeouts.of(session.persona_id)})
    return Ending(session, cause, derived_id(sweep.sweep_id, session.session_id), sweep.as_of)


async def _lock_stale(
    driver: Driver, sweep: TimeoutSweep, timeouts: Timeouts, position: Position, size: int
) -> list[Record]:
    limits = timeouts.limits(sweep.as_of)
    return await driver.fetch(sql.LOCK_STALE, *limits, position.due_since, position.session_id, size)


def _after(rows: list[Record], size: int) -> Position | None:
    """Return where the next chunk begins; a chunk that is not full was the last."""
    return Position(rows[-1]["last_activity_at"], rows[-1]["session_id"]) if len(rows) == size else None
