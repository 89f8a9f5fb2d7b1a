"""Looks for whoever holds others up in PostgreSQL: a transaction that somebody left open."""

import re
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.commands.checkup.findings import Finding, well, wrong
from services.commands.wording import counted, duration

CHECK = "postgres.locks"
LONG_SECONDS = 2.0
"""Locks that the system takes itself are given back sooner."""

_BLOCKERS = text(
    "WITH waiting AS ("
    " SELECT pid, query, clock_timestamp() - query_start AS waited, unnest(pg_blocking_pids(pid)) AS blocker"
    " FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())"
    " SELECT held.pid, held.state, extract(epoch FROM clock_timestamp() - held.xact_start), held.query,"
    " count(DISTINCT waiting.pid), extract(epoch FROM max(waited)), (array_agg(waiting.query ORDER BY waited DESC))[1]"
    " FROM waiting JOIN pg_stat_activity held ON held.pid = waiting.blocker"
    # Whoever waits himself is not the one to end.
    " WHERE held.wait_event_type IS DISTINCT FROM 'Lock'"
    " GROUP BY held.pid, held.state, held.xact_start, held.query ORDER BY max(waited) DESC"
)
_KIND = re.compile(
    r"\s*((?:lock\s+table|insert\s+into|delete\s+from|update|truncate(?:\s+table)?|(?:alter|drop)\s+\w+)"
    r'\s+(?:only\s+)?"?\w+"?|[a-z]+)',
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session of PostgreSQL that others wait for. What its user may not see of it is None."""

    pid: int
    state: str | None
    open_seconds: float | None
    """How long its transaction has been open."""
    statement: str | None
    """Its last one; only its kind is told, for values may be anything."""
    waiting: int
    waited_seconds: float
    waiting_statement: str | None


async def check_locks(connection: AsyncConnection) -> Finding:
    """Return whether somebody holds others up."""
    rows = await connection.execute(_BLOCKERS)
    return locks(
        [
            Blocker(pid, state, None if age is None else float(age), statement, waiting, float(waited), theirs)
            for pid, state, age, statement, waiting, waited, theirs in rows
        ]
    )


def locks(blockers: list[Blocker]) -> Finding:
    """Return who holds others up for longest, if for long; `blockers` come with that one first."""
    long = [blocker for blocker in blockers if blocker.waited_seconds >= LONG_SECONDS]
    if not long:
        return well(CHECK, "nobody waits for a lock for long.", waiting=0)
    worst = long[0]
    told = (
        f"process {worst.pid} of PostgreSQL ({_doing(worst)}) holds up {counted(worst.waiting, 'other')}, "
        f"for {duration(worst.waited_seconds)} ({kind(worst.waiting_statement)})."
    )
    if len(long) > 1:
        told += f" Beside it: {len(long) - 1} more."
    step = f"find out whose it is; if nobody needs it, end it: SELECT pg_terminate_backend({worst.pid})."
    figures = {"pid": worst.pid, "waiting": worst.waiting, "waitedSeconds": worst.waited_seconds}
    return wrong(CHECK, told, step, **figures)


def kind(statement: str | None) -> str:
    """Return what kind of statement it is, and of which table: never a value."""
    found = _KIND.match(statement or "")
    return " ".join(found[1].split()) if found else "a statement that is not shown"


def _doing(blocker: Blocker) -> str:
    doing = blocker.state or "what it does is not shown"
    if blocker.open_seconds is not None:
        doing += f", its transaction open for {duration(blocker.open_seconds)}"
    return f"{doing}, last {kind(blocker.statement)}"
