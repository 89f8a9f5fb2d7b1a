"""Bulk jobs in PostgreSQL: one row a job, one a session that it has looked at.

A job is worked on by one gateway at a time, which says every second that it still is; who finds a job that nobody works
on takes it over.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row

from services.api_gateway.bodies import BulkBody
from services.api_gateway.bulk import Item, ItemOutcome, JobState
from services.api_gateway.database import Database
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.meaning import USER, users_named
from services.database.tables import chat_sessions, job_items, jobs

KEPT = timedelta(days=30)
WORKED_ON_SECONDS = 30.0
"""A gateway that has not told for so long that it works on a job does so no more."""
AT_ONCE = 5
"""Jobs that one gateway works on."""
PURGED_AT_ONCE = 5_000

_TOLD = [
    column.label(str(column.name))
    for column in jobs.c
    if column.key not in {"ids", "position", "worker", "worker_until"}
]


@dataclass(frozen=True, slots=True)
class Jobs:
    """The tables of jobs. Every method raises DatabaseAway while PostgreSQL is."""

    database: Database

    async def add(self, job_id: UUID, requested_by: str, body: BulkBody, now: datetime) -> bool:
        """Add a job to be worked on; False where it is there already."""
        values = body.model_dump() | {"ids": sorted(set(body.ids)) if body.ids is not None else None}
        row = {**values, "job_id": job_id, "requested_by": requested_by, "state": JobState.RUNNING, "created_at": now}
        statement = insert(jobs).values(row).on_conflict_do_nothing().returning(jobs.c.job_id)
        async with self.database.statements() as connection:
            return await connection.scalar(statement) is not None

    async def told(self, job_id: UUID) -> dict[str, Any] | None:
        """Return a job as it is told."""
        async with self.database.statements() as connection:
            row = (await connection.execute(select(*_TOLD).where(jobs.c.job_id == job_id))).mappings().one_or_none()
        return None if row is None else dict(row)

    async def items(self, job_id: UUID, after: UUID | None, limit: int) -> list[dict[str, Any]]:
        """Return what became of the sessions after `after`, in the order of their ids."""
        item = job_items.c
        now = func.coalesce(item.new_session_id, item.session_id) == chat_sessions.c.session_id
        columns = (item.session_id, item.outcome, item.code, item.new_session_id, chat_sessions.c.status)
        statement = (
            select(*(column.label(str(column.name)) for column in columns))
            .select_from(job_items.outerjoin(chat_sessions, now))
            .where(item.job_id == job_id, *([] if after is None else [item.session_id > after]))
            .order_by(item.session_id)
            .limit(limit)
        )
        async with self.database.statements() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]

    async def end(self, job_id: UUID, state: JobState, error: str | None = None) -> None:
        """End a job that is running."""
        values = {"state": state, "error": error, "finished_at": func.now()}
        async with self.database.statements() as connection:
            await connection.execute(update(jobs).where(_running(job_id)).values(values))

    async def claim(self, worker: UUID) -> Sequence[Row[Any]]:
        """Take on what this worker works on, and some of what nobody does; return those jobs."""
        free = or_(jobs.c.worker.is_(None), jobs.c.worker == worker, jobs.c.worker_until < func.now())
        chosen = (
            select(jobs.c.job_id)
            .where(jobs.c.state == JobState.RUNNING, free)
            .order_by(jobs.c.created_at)
            .limit(AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        until = func.now() + timedelta(seconds=WORKED_ON_SECONDS)
        claimed = update(jobs).where(jobs.c.job_id.in_(chosen)).values(worker=worker, worker_until=until)
        async with self.database.statements() as connection:
            claims: Sequence[Row[Any]] = (await connection.execute(claimed.returning(jobs))).all()
        return claims

    async def due(self, job_id: UUID, limit: int) -> list[Item]:
        """Return items whose events Kafka has not acknowledged."""
        item = job_items.c
        statement = select(item.session_id, item.outcome, item.code, item.event_id, item.new_session_id)
        statement = statement.where(item.job_id == job_id, item.outcome == ItemOutcome.DUE).limit(limit)
        async with self.database.statements() as connection:
            rows = (await connection.execute(statement)).all()
        return [Item(row[0], ItemOutcome(row[1]), row[2], row[3], row[4]) for row in rows]

    async def advance(self, job_id: UUID, worker: UUID, items: Sequence[Item]) -> bool:
        """Write the next items of a job, in one transaction with its position; False if it is the worker's no more."""
        counts = {outcome: sum(item.outcome is outcome for item in items) for outcome in ItemOutcome}
        moved = {
            "position": items[-1].session_id,
            "done": jobs.c.done + counts[ItemOutcome.DONE],
            "skipped": jobs.c.skipped + counts[ItemOutcome.SKIPPED],
        }
        async with self.database.transaction() as connection:
            mine = and_(_running(job_id), jobs.c.worker == worker)
            if (await connection.execute(update(jobs).where(mine).values(moved))).rowcount == 0:
                return False
            await connection.execute(insert(job_items), [{"job_id": job_id, **asdict(item)} for item in items])
        return True

    async def settle(self, job_id: UUID, codes: dict[UUID, str | None]) -> None:
        """Mark items that were due: by session skipped with a code, or done."""
        item = job_items.c
        skipped = {session_id: code for session_id, code in codes.items() if code is not None}
        code = case(skipped, value=item.session_id) if skipped else None
        outcome = case((item.session_id.in_(skipped), ItemOutcome.SKIPPED), else_=ItemOutcome.DONE)
        was_due = and_(item.job_id == job_id, item.session_id.in_(codes), item.outcome == ItemOutcome.DUE)
        async with self.database.transaction() as connection:
            settled = update(job_items).where(was_due).values(outcome=outcome, code=code).returning(item.outcome)
            outcomes = list(await connection.scalars(settled))
            done = outcomes.count(ItemOutcome.DONE)
            counts = {"done": jobs.c.done + done, "skipped": jobs.c.skipped + len(outcomes) - done}
            await connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(counts))

    async def forget(self, user_id: str, before: datetime) -> None:
        """Take filters that name a user out of the jobs from before a time; one that still runs is cancelled."""
        told = select(jobs.c.job_id, jobs.c.filter).where(jobs.c.created_at < before, jobs.c.filter.contains(USER))
        async with self.database.statements() as connection:
            rows = (await connection.execute(told)).all()
        for job_id, text in rows:
            if not _names(text, user_id):
                continue
            await self.end(job_id, JobState.CANCELLED, "The data of the user whom its filter named is erased.")
            async with self.database.statements() as connection:
                await connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(filter=None))

    async def purge(self, now: datetime) -> None:
        """Delete jobs of a month ago, their items before them, some at a time."""
        old = select(jobs.c.job_id).where(jobs.c.created_at < now - KEPT)
        some = select(job_items.c.job_id, job_items.c.session_id).where(job_items.c.job_id.in_(old))
        gone = PURGED_AT_ONCE
        while gone == PURGED_AT_ONCE:
            doomed = tuple_(job_items.c.job_id, job_items.c.session_id).in_(some.limit(PURGED_AT_ONCE))
            async with self.database.statements() as connection:
                gone = (await connection.execute(delete(job_items).where(doomed))).rowcount
        async with self.database.statements() as connection:
            await connection.execute(delete(jobs).where(jobs.c.created_at < now - KEPT))


def _names(text: str, user_id: str) -> bool:
    try:
        return user_id in users_named(text)
    except InvalidFilter:
        # It meant something only to an earlier version: nobody will run it again.
        return False


def _running(job_id: UUID) -> ColumnElement[bool]:
    return and_(jobs.c.job_id == job_id, jobs.c.state == JobState.RUNNING)
