"""Applies the Alembic migrations."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.database.audit_partitions import create_audit_partition
from services.database.engine import build_engine
from services.database.errors import first_words
from services.database.partitions import months_ahead

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
PATIENCE_SECONDS = 600.0
_REST_SECONDS = 1.0
_GAVE_WAY = {"55P03", "40P01"}  # lock not available, deadlock


class NotMigrated(Exception):
    """The schema is not the newest; the message says why and what to check."""


class _TableInUse(Exception):
    """Others use a table that a migration wants for itself."""

    def __init__(self, told: str) -> None:
        super().__init__(
            f"A table stays in use ({told}): pg_stat_activity tells whose transaction is open for long, such as a "
            "dump's."
        )


async def migrate(database_url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> str | None:
    """Bring the database to the newest schema, and make room in the audit log for these months.

    Safe to run at any time, by several processes at once, and beside those of the release before. Each migration is
    whole or not done; one that would wait over 2 s for a table gives way to whoever uses it, and is tried again for
    `patience_seconds`. A schema of a later release is left as it is: returns its name then, else None.

    Raises NotMigrated where PostgreSQL cannot be reached or refuses, and where a table stays in use.
    """
    give_up = time.monotonic() + patience_seconds
    while True:
        try:
            return await _migrate_once(database_url)
        except _TableInUse as error:
            if time.monotonic() > give_up:
                raise NotMigrated(f"{error} Migrate again after it.") from error
            logger.warning("%s Trying again.", error)
        await asyncio.sleep(_REST_SECONDS)


async def _migrate_once(database_url: str) -> str | None:
    """Do what is left to do, as `migrate` says; raises _TableInUse where something gave way to others."""
    try:
        later = await _upgrade(database_url)
        await _make_room(database_url)
    except (OSError, asyncpg.InterfaceError) as error:
        raise NotMigrated(f"PostgreSQL cannot be reached ({first_words(error)}): check DATABASE_URL.") from error
    except DBAPIError as error:
        told = first_words(error)
        if getattr(error.orig, "sqlstate", None) in _GAVE_WAY:
            raise _TableInUse(told) from error
        raise NotMigrated(f"PostgreSQL refuses ({told}): check DATABASE_URL and what its user may do.") from error
    return later


async def _upgrade(database_url: str) -> str | None:
    """Run what migrations are missing; return the schema's name where it is of a later release."""
    config = alembic_config(database_url)
    try:
        await asyncio.to_thread(command.upgrade, config, "head")
    except CommandError as error:
        newest, applied = ScriptDirectory.from_config(config).get_current_head(), await _applied(database_url)
        if newest is None or applied <= newest:
            raise NotMigrated(f"The schema {applied} is none of this release's: check DATABASE_URL.") from error
        return applied
    return None


async def _applied(database_url: str) -> str:
    engine = build_engine(database_url, pool_size=1)
    try:
        async with engine.connect() as connection:
            return str(await connection.scalar(text("SELECT version_num FROM alembic_version")))
    finally:
        await engine.dispose()


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
