"""Alembic's entry: runs each migration in a transaction of its own, one process at a time."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text

from services.database.engine import build_engine
from services.database.tables import metadata

_LOCK = 0x6D69_6772  # "migr"
_WAITS = "2s"
"""For a table. Whoever comes later waits behind, so it is short; but longer than the second after which PostgreSQL ends
an autovacuum that is in the way."""


def _run(connection: Connection) -> None:
    # In one transaction they would hold what each of them locks until the last is done, in another order than the fold.
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def _migrate() -> None:
    engine = build_engine(context.config.attributes["database_url"], pool_size=1)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            await connection.execute(text(f"SET lock_timeout = '{_WAITS}'"))
            await connection.commit()
            await connection.run_sync(_run)
            await connection.commit()
    finally:
        await engine.dispose()  # with the connection ends its lock


asyncio.run(_migrate())
