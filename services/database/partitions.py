"""Monthly partitions by the UUIDv7 of the session: its first 48 bits are milliseconds, so months are id ranges."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.contracts.ids import id_time

MONTHS_AHEAD = 2
PARTITIONED_TABLES = ("chat_sessions", "messages", "session_events")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCK = 0x6368_6174  # "chat": two trackers never make partitions at the same time
_MAKING_WAITS = "2s"
"""Longer than PostgreSQL's deadlock_timeout, after which an autovacuum in the way gives up."""
_DROPPING_WAITS = "500ms"


class DroppedMonth(Exception):
    """Sessions of this month were dropped by retention; their partitions are never made again."""


def month_of(session_id: UUID) -> datetime:
    """Return the first instant of the UTC month in which the id was minted."""
    return id_time(session_id).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    """Return the first instant of the month after `month`."""
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def months_ahead(now: datetime) -> Iterator[datetime]:
    """Yield the month of `now`, in UTC, and the ones after it for which there is to be room already."""
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(MONTHS_AHEAD + 1):
        yield month
        month = next_month(month)


def first_id(month: datetime) -> UUID:
    """Return the lowest id of a month: the boundary between its partition and the one before."""
    return UUID(int=int(month.timestamp() * 1000) << 80)


def id_at(moment: datetime) -> UUID:
    """Return the lowest id that can have been minted at `moment` or later."""
    # Whole-number arithmetic: a float of seconds can fall short of its own millisecond.
    return UUID(int=(moment - _EPOCH) // timedelta(milliseconds=1) << 80)


async def create_partitions(connection: AsyncConnection, month: datetime) -> None:
    """Make the month's partition of every partitioned table, if it is not there.

    Runs in the caller's transaction. Readers never wait for it; writers wait while three empty tables are attached.
    Raises DroppedMonth for a month that retention has dropped, or any before it. Where writers do not make room within
    2 s, PostgreSQL refuses the lock (SQLSTATE 55P03), and it is to be tried again.
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    dropped = await connection.scalar(text("SELECT max(month) FROM dropped_months"))
    if dropped is not None and month <= dropped:
        raise DroppedMonth(f"The sessions of {month:%Y-%m} were dropped by retention.")
    missing = [table for table in PARTITIONED_TABLES if not await _exists(connection, partition_name(table, month))]
    if not missing:
        return
    # CREATE TABLE … PARTITION OF would keep readers out as well, from its first statement to the commit.
    for table in missing:
        room = " WITH (fillfactor = 75)" if table == "chat_sessions" else ""
        await connection.execute(
            text(f"CREATE TABLE {partition_name(table, month)} (LIKE {table} INCLUDING ALL){room}")
        )
    await connection.execute(text(f"SET LOCAL lock_timeout = '{_MAKING_WAITS}'"))
    # What attaching takes because of the foreign key, in the order of the fold: else the two could block each other.
    await connection.execute(text("LOCK TABLE chat_sessions, ONLY messages IN SHARE ROW EXCLUSIVE MODE"))
    bounds = f"FROM ('{first_id(month)}') TO ('{first_id(next_month(month))}')"
    for table in missing:
        await connection.execute(
            text(f"ALTER TABLE {table} ATTACH PARTITION {partition_name(table, month)} FOR VALUES {bounds}")
        )


def partition_name(table: str, month: datetime) -> str:
    """Return the name of a table's partition of a month."""
    return f"{table}_{month.astimezone(UTC):%Y_%m}"


async def _exists(connection: AsyncConnection, name: str) -> bool:
    return bool(await connection.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}))


async def existing_months(connection: AsyncConnection) -> list[datetime]:
    """Return the months of which any partition is there, detached ones among them, oldest first."""
    names = await connection.scalars(
        text(
            "SELECT DISTINCT right(relname, 7) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname ~ :pattern"
        ),
        {"pattern": f"^({'|'.join(PARTITIONED_TABLES)})_[0-9]{{4}}_[0-9]{{2}}$"},
    )
    return sorted(datetime.strptime(name, "%Y_%m").replace(tzinfo=UTC) for name in names)


async def room_until(connection: AsyncConnection, now: datetime) -> datetime:
    """Return until when, from `now` on, sessions have partitions to go into; the month of `now` where not even now."""
    names = set(
        await connection.scalars(
            text(
                "SELECT inhrelid::regclass::text FROM pg_inherits"
                " WHERE inhparent = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"
            ),
            {"tables": list(PARTITIONED_TABLES)},
        )
    )
    month = next(months_ahead(now))
    while {partition_name(table, month) for table in PARTITIONED_TABLES} <= names:
        month = next_month(month)
    return month


async def record_dropped(connection: AsyncConnection, month: datetime) -> None:
    """Write down that the month is dropped: its partitions are never made again."""
    await connection.execute(
        text("INSERT INTO dropped_months (month) VALUES (:month) ON CONFLICT DO NOTHING"), {"month": month}
    )


async def drop_partitions(connection: AsyncConnection, month: datetime) -> None:
    """Drop what is there of the month: messages first, then events, then sessions.

    `connection` commits each statement by itself (AUTOCOMMIT) and is to be closed afterwards. Goes on where an earlier
    attempt stopped. Where somebody holds a lock for half a second, PostgreSQL refuses it (SQLSTATE 55P03): nobody
    waits longer than that behind a lock that is waited for here, and it is to be tried again.
    """
    await connection.execute(text(f"SET lock_timeout = '{_DROPPING_WAITS}'"))
    # Detaching sessions looks for messages that name them. Messages of the month are gone, so a merge of the two
    # indexes ends after the month's own; a hash join would read every message there is, while nobody may write one.
    await connection.execute(text("SET enable_hashjoin = off"))
    await connection.execute(text("SET enable_nestloop = off"))
    for table in ("messages", "session_events", "chat_sessions"):
        name = partition_name(table, month)
        pending = await connection.scalar(
            text("SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(:name)"), {"name": name}
        )
        if pending is not None:
            how = "FINALIZE" if pending else "CONCURRENTLY"
            await connection.execute(text(f"ALTER TABLE {table} DETACH PARTITION {name} {how}"))
        # Messages' foreign key reaches into every partition of sessions: one lock from the top cannot deadlock.
        lock = "LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE;" if table == "messages" else ""
        await connection.execute(text(f"DO $$ BEGIN {lock} DROP TABLE IF EXISTS {name}; END $$"))
