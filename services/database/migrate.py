"""Applies the Alembic migrations."""

import asyncio
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

MIGRATIONS = Path(__file__).parent / "migrations"


class NotMigrated(Exception):
    """The schema is not the newest; the message says why and what to check."""


async def migrate(database_url: str) -> None:
    """Bring the database to the newest schema. Safe to run at any time, and by several processes at once.

    Raises NotMigrated where PostgreSQL cannot be reached or refuses.
    """
    try:
        await asyncio.to_thread(command.upgrade, alembic_config(database_url), "head")
    except (OSError, asyncpg.InterfaceError) as error:
        raise NotMigrated(f"PostgreSQL cannot be reached ({_told(error)}): check DATABASE_URL.") from error
    except DBAPIError as error:
        raise NotMigrated(
            f"PostgreSQL refuses ({_told(error.orig)}): check DATABASE_URL and what its user may do."
        ) from error


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
