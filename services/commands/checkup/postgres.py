"""Looks at PostgreSQL: its schema and room, what the tracker keeps there, and its clock."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain

from alembic.script import ScriptDirectory
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.commands.checkup.findings import Finding, notice, well, wrong
from services.commands.checkup.locks import CHECK as LOCKS
from services.commands.checkup.locks import check_locks
from services.commands.checkup.objectives import check_objectives
from services.commands.checkup.personas import check_personas
from services.commands.wording import counted, duration, listed
from services.contracts.ids import id_time
from services.contracts.topics import GROUP_TOPICS, TRACKER_GROUP
from services.database import tables as t
from services.database.audit_partitions import TABLE as AUDIT_TABLE
from services.database.audit_words import Action
from services.database.engine import build_engine
from services.database.errors import POSTGRES_ERRORS, first_words
from services.database.migrate import alembic_config
from services.database.partitions import PARTITIONED_TABLES, months_ahead, partition_name
from services.runtime.settings import PostgresSettings, WrongSettings, read_settings
from services.session_tracker.settings import SweeperSettings
from services.session_tracker.timeouts import REQUESTED_BY as SCHEDULE

CLOCK_SECONDS = 5.0
"""How far two clocks may be apart before fresh ids and sweeps suffer."""
FOLD_SECONDS = 30.0
"""How old the progress of the fold may be: an idle tracker moves it every second."""
_DRIFT_HOURS = 24
_STATEMENT_MS = 5_000
_CHECKED_SECONDS = 300.0
"""How long ago the rollups may have been compared: it is done every 15 s."""

_SWEEP_SECONDS = 900.0
"""How long a sweep may take, with its waiting for the fold; where sweeps are many, half the time between two."""

_WAIT = text("SET lock_timeout = '1s'")
_KEPT_WAITING = {
    "55P03": "it cannot be read: another session of PostgreSQL holds a lock on it.",
    "57014": f"it could not be read within {_STATEMENT_MS // 1000} s.",
}
"""By SQLSTATE."""

_INVALID_INDEXES = text(
    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE c.relnamespace = current_schema()::regnamespace AND NOT (i.indisvalid AND i.indisready) ORDER BY 1"
)
_INDEXES = text(
    "SELECT relname FROM pg_class WHERE relkind IN ('i', 'I') AND relnamespace = current_schema()::regnamespace"
)
_TABLES = text(
    "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace"
)


async def check_postgres(settings: PostgresSettings) -> list[Finding]:
    """Return what is found of the database and the personas in it; of one that is out of reach that alone."""
    url = settings.database_url.get_secret_value()
    engine = build_engine(url, pool_size=1, statement_timeout_ms=_STATEMENT_MS)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            findings = [await check_locks(connection), await _schema(connection, url)]
            await connection.execute(_WAIT)
            current = findings[-1].next_step is None
            checks = _CHECKS if current else {"clocks.postgres": _clock}
            for check, look in checks.items():
                findings += await _seen(check, look(connection))
            return findings
    except POSTGRES_ERRORS as error:
        step = "start it, or correct DATABASE_URL and its user's rights."
        return [wrong("postgres", f"it does not answer ({first_words(error)}).", step)]
    finally:
        await engine.dispose()


async def _seen(check: str, looking: Awaitable[Finding | list[Finding]]) -> list[Finding]:
    """Return what a look finds; where PostgreSQL keeps it waiting, that: the other looks may tell why."""
    try:
        found = await looking
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state not in _KEPT_WAITING:
            raise
        step = f"see {LOCKS} for who holds the lock, and PostgreSQL's load; end or mend that."
        return [wrong(check, _KEPT_WAITING[state], step)]
    return [found] if isinstance(found, Finding) else found


async def _schema(connection: AsyncConnection, url: str) -> Finding:
    check, head = "postgres.schema", ScriptDirectory.from_config(alembic_config(url)).get_current_head()
    there = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    applied = await connection.scalar(text("SELECT version_num FROM alembic_version")) if there else None
    if applied == head:
        return well(check, f"it is {head}, the newest.", applied=applied)
    if applied is not None and head is not None and applied > head:
        told = f"it is {applied}, of a later release: it has all that this one, whose newest is {head}, needs."
        return well(check, told, applied=applied, needed=head)
    told = f"it is {applied or 'empty'}, and this version of the program needs {head}."
    return wrong(check, told, "run `chat-sessions migrate` of the newest version.", applied=applied, needed=head)


async def _clock(connection: AsyncConnection) -> Finding:
    before = datetime.now(UTC)
    theirs = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return clock("postgres", theirs, before, datetime.now(UTC))


def clock(whose: str, theirs: datetime, before: datetime, after: datetime, resolution: float = 0.0) -> Finding:
    """Return how far a clock that was read between `before` and `after` of this machine's is from it.

    `resolution` is how many seconds it may be behind only because it was told in whole ones.
    """
    ahead = max((theirs - after).total_seconds(), 0.0)
    behind = max((before - theirs).total_seconds() - resolution, 0.0)
    apart = max(ahead, behind)
    told = f"{duration(apart)} {'ahead of' if ahead else 'behind'} this machine's."
    if apart > CLOCK_SECONDS:
        step = "set both by NTP: ids carry times, and events that are ahead by five minutes are refused."
        return wrong(f"clocks.{whose}", told, step, apartSeconds=apart)
    return well(f"clocks.{whose}", told if apart >= 1 else "it agrees with this machine's.", apartSeconds=apart)


async def _partitions(connection: AsyncConnection) -> Finding:
    existing = {*await connection.scalars(_TABLES)}
    months = [*months_ahead(datetime.now(UTC))]
    needed = [partition_name(table, month) for month in months for table in (*PARTITIONED_TABLES, AUDIT_TABLE)]
    return room(needed, existing, this_month=needed[: len(PARTITIONED_TABLES) + 1])


def room(needed: list[str], existing: set[str], *, this_month: list[str]) -> Finding:
    """Return whether the partitions of this month and of those ahead are there."""
    check, missing = "postgres.partitions", [name for name in needed if name not in existing]
    if not missing:
        return well(check, f"there is room up to {needed[-1][-7:].replace('_', '-')}.", missing=0)
    told = f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    step = "start a tracker, which makes them within an hour, and see why none did."
    if {*missing} & {*this_month}:
        return wrong(check, f"{told} Nothing of this month can be written there.", step, missing=len(missing))
    return notice(check, told, step, missing=len(missing))


async def _indexes(connection: AsyncConnection) -> Finding:
    existing, invalid = {*await connection.scalars(_INDEXES)}, [*await connection.scalars(_INVALID_INDEXES)]
    declared = chain.from_iterable(table.indexes for table in t.metadata.sorted_tables)
    missing = sorted(str(index.name) for index in declared if index.name not in existing)
    check, figures = "postgres.indexes", {"missing": len(missing), "invalid": len(invalid)}
    if missing:
        step = "make it anew as the migrations do: without it, reads and sweeps take every row."
        return wrong(check, f"{counted(len(missing), 'index')} missing: {', '.join(missing)}.", step, **figures)
    if invalid:
        step = "run REINDEX INDEX CONCURRENTLY on each."
        return wrong(check, f"{counted(len(invalid), 'index')} not valid: {', '.join(invalid)}.", step, **figures)
    return well(check, "all are there and valid.", **figures)


async def _fold(connection: AsyncConnection) -> Finding:
    progress = t.fold_progress.c
    times = select(func.count(), func.min(progress.folded_up_to), func.max(progress.folded_up_to))
    partitions, oldest, newest = (await connection.execute(times)).one()
    return fold(partitions, _age(oldest), _age(newest))


def fold(partitions: int, age_seconds: float | None, newest_seconds: float | None) -> Finding:
    """Return how far the fold is: of how many partitions it is known, and how old the oldest and newest of them are."""
    check, every = "postgres.fold", sum(topic.partitions for topic in GROUP_TOPICS[TRACKER_GROUP])
    step = "see the tracker's health and log, and the group session-tracker."
    if age_seconds is None or partitions < every:
        told = f"of {every - partitions} of {every} partitions nothing was ever folded."
        if newest_seconds is not None and newest_seconds <= FOLD_SECONDS:
            step = "wait a minute: a tracker is at work. If it is still so then, see its health and log."
            return notice(check, told, step, partitions=partitions)
        return wrong(check, told, "start a tracker, or see why it does not fold.", partitions=partitions)
    figures = {"partitions": partitions, "ageSeconds": age_seconds}
    if age_seconds > FOLD_SECONDS:
        return wrong(check, f"nothing newer than {duration(age_seconds)} is folded everywhere.", step, **figures)
    return well(check, f"everything older than {duration(max(0.0, age_seconds))} is folded.", **figures)


async def _drift(connection: AsyncConnection) -> Finding:
    log, since = t.audit_log.c, datetime.now(UTC) - timedelta(hours=_DRIFT_HOURS)
    repairs = select(log.target, log.details).where(log.action == Action.ROLLUPS_REPAIR, log.at >= since)
    repaired = (await connection.execute(repairs.order_by(log.at))).all()
    found = sum(int(details.get("drift", 0)) for _, details in repaired)
    checked = await connection.scalar(select(func.max(t.rollup_checks.c.checked_at)))
    session = t.chat_sessions.c.session_id
    first = await connection.scalar(select(session).order_by(session).limit(1))
    last = repaired[-1].target if repaired else None
    return drift(found, _age(checked), _age(None if first is None else id_time(first)), last)


def drift(
    found: int, checked_seconds_ago: float | None, first_session_seconds_ago: float | None, last: str | None = None
) -> Finding:
    """Return what was repaired in the statistics within a day, `last` of all where, and whether they are compared."""
    check, figures = "postgres.rollups", {"driftOfDay": found, "checkedSecondsAgo": checked_seconds_ago}
    if found:
        told = f"statistics were wrong by {found} and were repaired within {_DRIFT_HOURS} h, last the {last}."
        step = "find out who wrote to the database; if nobody did, report the audit log's rollups.repair as a bug."
        return wrong(check, told, step, **figures)
    unchecked = first_session_seconds_ago if checked_seconds_ago is None else checked_seconds_ago
    if unchecked is not None and unchecked > _CHECKED_SECONDS:
        told = f"statistics have not been compared with the sessions for {duration(unchecked)}."
        return wrong(check, told, "see the tracker's log for why it does not look after them.", **figures)
    if checked_seconds_ago is None or first_session_seconds_ago is None:
        return well(check, "there was nothing to compare statistics with yet.", **figures)
    since = duration(min(max(0.0, first_session_seconds_ago), _DRIFT_HOURS * 3600))
    return well(check, f"statistics were right, as far as compared, for {since}.", **figures)


async def _sweeps(connection: AsyncConnection) -> Finding:
    sweep = t.sweeps.c
    done = select(func.max(sweep.as_of)).where(sweep.requested_by == SCHEDULE, sweep.finished_at.is_not(None))
    return sweeps(await connection.scalar(done), datetime.now(UTC), _sweep_interval())


def sweeps(last: datetime | None, now: datetime, interval: timedelta) -> Finding:
    """Return whether the last scheduled sweep was as long ago as one interval lets it be, and some minutes."""
    check, every = "postgres.sweeps", duration(interval.total_seconds())
    step = "see the sweeper's health and log, then the group session-sweeps and the fold, which a sweep waits for."
    if last is None:
        told = f"no scheduled sweep has run yet; the first is due at the start, then one every {every}."
        return notice(check, told, f"wait a minute. If it is still so then, {step}", lastSecondsAgo=None)
    last_seconds_ago = (now - last).total_seconds()
    if last_seconds_ago > interval.total_seconds() + min(_SWEEP_SECONDS, interval.total_seconds() / 2):
        told = f"the last scheduled sweep was of {duration(last_seconds_ago)} ago, and one is due every {every}."
        return wrong(check, told, step, lastSecondsAgo=last_seconds_ago)
    return well(check, f"the scheduled sweep of {last:%Y-%m-%d %H:%M} UTC is done.", lastSecondsAgo=last_seconds_ago)


def _sweep_interval() -> timedelta:
    try:
        return timedelta(hours=read_settings(SweeperSettings).chat_session_cleanup_interval)
    except WrongSettings:
        return timedelta(hours=SweeperSettings.model_fields["chat_session_cleanup_interval"].default)


def _age(moment: datetime | None) -> float | None:
    return None if moment is None else (datetime.now(UTC) - moment).total_seconds()


_CHECKS: Mapping[str, Callable[[AsyncConnection], Awaitable[Finding | list[Finding]]]] = {
    "clocks.postgres": _clock,
    "postgres.partitions": _partitions,
    "postgres.indexes": _indexes,
    "postgres.fold": _fold,
    "postgres.rollups": _drift,
    "postgres.sweeps": _sweeps,
    "personas": check_personas,
    "sessions": check_objectives,
}
"""By the name that stands for each where it cannot be looked at."""
