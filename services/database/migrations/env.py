"""Alembic's entry: runs the migrations in one transaction, one process at a time."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text

from services.database.engine import build_engine
from services.database.tables import metadata

_LOCK = 0x6D69_6772  # "migr"


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


async def _migrate() -> None:
    engine = build_engine(context.config.attributes["database_url"], pool_size=1)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(_migrate())
