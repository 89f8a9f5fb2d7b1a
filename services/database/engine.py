"""Connections to PostgreSQL."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_DRIVER = "postgresql+asyncpg://"


def build_engine(
    database_url: str, *, pool_size: int = 5, statement_timeout_ms: int | None = None, pre_ping: bool = True
) -> AsyncEngine:
    """Return an engine with at most `pool_size` connections.

    `pre_ping` checks each before it is used; without it the first use after PostgreSQL was away fails.
    """
    settings = {"application_name": "chat-sessions"}
    if statement_timeout_ms is not None:
        settings["statement_timeout"] = str(statement_timeout_ms)
    return create_async_engine(
        sqlalchemy_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=pre_ping,
        connect_args={"server_settings": settings, "timeout": 5},
    )


def sqlalchemy_url(database_url: str) -> str:
    """Return the URL with the driver that SQLAlchemy needs, whichever of the two forms it was given in."""
    return _DRIVER + _without_scheme(database_url)


def asyncpg_url(database_url: str) -> str:
    """Return the URL as asyncpg reads it, whichever of the two forms it was given in."""
    return "postgresql://" + _without_scheme(database_url)


def _without_scheme(database_url: str) -> str:
    scheme, separator, rest = database_url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise ValueError("DATABASE_URL must begin with postgresql:// or postgresql+asyncpg://.")
    return rest
