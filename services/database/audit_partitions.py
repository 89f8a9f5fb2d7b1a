"""Monthly partitions of the audit log, by the time of its entries."""

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.database.append_only import NO_TRUNCATE
from services.database.partitions import next_month, partition_name

TABLE = "audit_log"
_LOCK = 0x6175_6469  # "audi": two processes never make partitions at the same time
_WAITS = "2s"


async def create_audit_partition(connection: AsyncConnection, month: datetime) -> None:
    """Make the partition of the month that begins with `month`, if it is not there, in the caller's transaction.

    Where entries are being written for over 2 s, PostgreSQL refuses the lock (SQLSTATE 55P03).
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    name = partition_name(TABLE, month)
    if await connection.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}):
        return
    await connection.execute(text(f"SET LOCAL lock_timeout = '{_WAITS}'"))
    bounds = f"FROM ('{month.isoformat()}') TO ('{next_month(month).isoformat()}')"
    await connection.execute(text(f"CREATE TABLE {name} PARTITION OF {TABLE} FOR VALUES {bounds}"))
    await connection.execute(text(NO_TRUNCATE.format(table=name)))


async def drop_audit_partitions(connection: AsyncConnection, until: datetime) -> list[datetime]:
    """Drop the months that end at `until` or before, in the caller's transaction; return them, oldest first.

    Where entries are being read or written for over 2 s, PostgreSQL refuses the lock (SQLSTATE 55P03).
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    due = [month for month in await audit_months(connection) if next_month(month) <= until]
    await connection.execute(text(f"SET LOCAL lock_timeout = '{_WAITS}'"))
    for month in due:
        await connection.execute(text(f"DROP TABLE {partition_name(TABLE, month)}"))
    return due


async def audit_months(connection: AsyncConnection) -> list[datetime]:
    """Return the months that have a partition, oldest first."""
    names = await connection.scalars(
        text("SELECT right(inhrelid::regclass::text, 7) FROM pg_inherits WHERE inhparent = to_regclass(:table)"),
        {"table": TABLE},
    )
    return sorted(datetime.strptime(name, "%Y_%m").replace(tzinfo=UTC) for name in names)
