"""Applies the Alembic migrations."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"


async def migrate(database_url: str) -> None:
    """Bring the database to the newest schema. Safe to run at any time, and by several processes at once."""
    await asyncio.to_thread(command.upgrade, alembic_config(database_url), "head")


def alembic_config(database_url: str) -> Config:
    """Return Alembic's configuration for this database, without any file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    return config
