"""Connections are made as the URL says, in all that the driver knows of URLs."""

import pytest
from sqlalchemy import text

from services.database.engine import build_engine


@pytest.mark.parametrize("more", ["", "&sslmode=disable&target_session_attrs=read-write", "&lock_timeout=1234ms"])
async def test_options_of_the_url_are_the_drivers(postgres_url: str, more: str) -> None:
    engine = build_engine(postgres_url + more, statement_timeout_ms=20_000)
    try:
        async with engine.connect() as connection:
            shown = [
                await connection.scalar(text(f"SHOW {name}"))
                for name in ("application_name", "statement_timeout", "lock_timeout")
            ]
    finally:
        await engine.dispose()
    assert shown == ["chat-sessions", "20s", "1234ms" if "lock_timeout" in more else "0"]
