"""Applies the Alembic migrations."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from services.database.audit_partitions import create_audit_partition
from services.database.engine import build_engine
from services.database.partitions import months_ahead

MIGRATIONS = Path(__file__).parent / "migrations"


class NotMigrated(Exception):
    """The schema is not the newest; the message says why and what to check."""


async def migrate(database_url: str) -> None:
    """Bring the database to the newest schema, and make room in the audit log for these months.

    Safe to run at any time, and by several processes at once. Raises NotMigrated where PostgreSQL cannot be reached or
    refuses.
    """
    try:
        await asyncio.to_thread(command.upgrade, alembic_config(database_url), "head")
        await _make_room(database_url)
    except (OSError, asyncpg.InterfaceError) as error:
        raise NotMigrated(f"PostgreSQL cannot be reached ({_told(error)}): check DATABASE_URL.") from error
    except DBAPIError as error:
        raise NotMigrated(
            f"PostgreSQL refuses ({_told(error.orig)}): check DATABASE_URL and what its user may do."
        ) from error


async def _make_room(database_url: str) -> None:
    # The gateway writes there also before the first tracker runs, which makes room for later months.
    engine = build_engine(database_url)
    try:
        async with engine.begin() as connection:
            for month in months_ahead(datetime.now(UTC)):
                await create_audit_partition(connection, month)
    finally:
        await engine.dispose()


def alembic_config(database_url: str) -> Config:
    """Return Alembic's configuration for this database, without any file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    return config


def _told(error: BaseException | None) -> str:
    # SQLAlchemy wraps what the driver raised; its later lines hold the statement.
    cause = error if error is None or error.__cause__ is None else error.__cause__
    return next(iter(str(cause).splitlines()), "") or type(cause).__name__
