"""Connections to PostgreSQL."""

import contextlib

import asyncpg
from pydantic_core import from_json
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 0.5


def build_engine(
    database_url: str,
    *,
    pool_size: int = 5,
    statement_timeout_ms: int | None = None,
    answer_seconds: float | None = None,
    pre_ping: bool = True,
) -> AsyncEngine:
    """Return an engine with at most `pool_size` connections.

    PostgreSQL stops a statement after `statement_timeout_ms`; whoever asks one that hangs gets TimeoutError after
    `answer_seconds`, which should be longer.
    `pre_ping` checks each before it is used; without it the first use after PostgreSQL was away fails.
    """
    settings = {"application_name": "chat-sessions"}
    if statement_timeout_ms is not None:
        settings["statement_timeout"] = str(statement_timeout_ms)

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            asyncpg_url(database_url),
            server_settings=settings,
            timeout=_CONNECT_SECONDS,
            command_timeout=answer_seconds,
            connection_class=_Connection,
            # What is prepared stays, however long: to prepare it again takes PostgreSQL several milliseconds.
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
        )

    # The driver reads the URL itself: SQLAlchemy knows neither `sslmode` nor several hosts.
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=pre_ping,
        hide_parameters=True,  # an error goes to the log
        json_deserializer=from_json,  # in a tenth of the time of the standard library's
    )


class _Connection(asyncpg.Connection):
    """One that does not wait for long for a PostgreSQL that hangs to let it go."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Say goodbye, stopping a statement that still runs; within half a second the connection is closed anyhow."""
        with contextlib.suppress(TimeoutError):
            await super().close(timeout=_CLOSE_SECONDS)


def asyncpg_url(database_url: str) -> str:
    """Return the URL as asyncpg reads it: with SQLAlchemy's name of the driver taken out."""
    return database_url.replace("postgresql+asyncpg://", "postgresql://", 1)
