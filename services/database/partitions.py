"""Monthly partitions by the UUIDv7 of the session: its first 48 bits are milliseconds, so months are id ranges."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.contracts.ids import id_time

PARTITIONED_TABLES = ("chat_sessions", "messages", "session_events")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCK = 0x6368_6174  # "chat": two trackers never make partitions at the same time


class DroppedMonth(Exception):
    """Sessions of this month were dropped by retention; their partitions are never made again."""


def month_of(session_id: UUID) -> datetime:
    """Return the first instant of the UTC month in which the id was minted."""
    return id_time(session_id).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    """Return the first instant of the month after `month`."""
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def first_id(month: datetime) -> UUID:
    """Return the lowest id of a month: the boundary between its partition and the one before."""
    return UUID(int=int(month.timestamp() * 1000) << 80)


def id_at(moment: datetime) -> UUID:
    """Return the lowest id that can have been minted at `moment` or later."""
    # Whole-number arithmetic: a float of seconds can fall short of its own millisecond.
    return UUID(int=(moment - _EPOCH) // timedelta(milliseconds=1) << 80)


async def create_partitions(connection: AsyncConnection, month: datetime) -> None:
    """Make the month's partition of every partitioned table, if it is not there.

    Runs in the caller's transaction. Raises DroppedMonth for a month that retention has dropped, or any before it.
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    dropped = await connection.scalar(text("SELECT max(month) FROM dropped_months"))
    if dropped is not None and month <= dropped:
        raise DroppedMonth(f"The sessions of {month:%Y-%m} were dropped by retention.")
    low, high = first_id(month), first_id(next_month(month))
    for table in PARTITIONED_TABLES:
        name = f"{table}_{month.astimezone(UTC):%Y_%m}"
        if await connection.scalar(text("SELECT to_regclass(:name) IS NULL"), {"name": name}):
            await connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ('{low}') TO ('{high}')")
            )
            if table == "chat_sessions":
                await connection.execute(text(f"ALTER TABLE {name} SET (fillfactor = 75)"))
