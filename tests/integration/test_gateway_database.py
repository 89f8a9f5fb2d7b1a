"""Connections to PostgreSQL are lent in the order in which they are asked for."""

import asyncio
from urllib.parse import urlsplit

import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.api_gateway import database as database_module
from services.api_gateway.database import LENT_AT_ONCE, Database, DatabaseAway
from services.database.driver import Statement
from services.database.engine import build_engine
from services.local.postgres import EmbeddedPostgres
from tests.patience import PATIENT_SECONDS

ASKERS = 6 * LENT_AT_ONCE


async def _scalar(engine: AsyncEngine, statement: TextClause) -> int:
    async with engine.connect() as connection:
        count: int = (await connection.execute(statement)).scalar_one()
        return count


async def test_nobody_is_overtaken(postgres_url: str) -> None:
    engine = build_engine(postgres_url, pool_size=LENT_AT_ONCE, pre_ping=False)
    database, served, done = Database(engine), [0] * ASKERS, asyncio.Event()

    async def ask_again_and_again(asker: int) -> None:
        while not done.is_set():
            async with database.statements() as connection:
                await connection.execute(text("SELECT pg_sleep(0.002)"))
            served[asker] += 1
            if sum(served) >= 20 * ASKERS:
                done.set()

    await asyncio.gather(*(ask_again_and_again(asker) for asker in range(ASKERS)))
    await engine.dispose()
    assert max(served) - min(served) <= 5, served


async def test_who_does_not_get_his_turn_in_time_finds_it_away(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "REACH_SECONDS", 0.1)
    engine = build_engine(postgres_url, pool_size=LENT_AT_ONCE, pre_ping=False)
    database, done = Database(engine), asyncio.Event()

    async def hold() -> None:
        async with database.statements():
            await done.wait()

    async def ask_in_vain() -> None:
        while True:
            async with database.statements():
                await asyncio.sleep(0)

    holders = [asyncio.create_task(hold()) for _ in range(LENT_AT_ONCE)]
    with pytest.raises(DatabaseAway):
        await ask_in_vain()
    done.set()
    await asyncio.gather(*holders)
    async with database.statements() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize("state", ["25006", "40001", "40P01", "53200", "55P03", "57P01", "58030"])
async def test_what_passes_by_itself_is_no_bug(postgres_url: str, state: str) -> None:
    engine = build_engine(postgres_url, pool_size=1, pre_ping=False)
    database, is_away = Database(engine), state in {"53200", "57P01", "58030"}
    statement = f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"
    with pytest.raises(DatabaseAway):
        await database.fetch(Statement(statement, (), {}))
    assert (database.note() is not None) == is_away
    with pytest.raises(DatabaseAway):
        async with database.statements() as connection:
            await connection.execute(text(statement))
    assert (database.note() is not None) == is_away
    await database.fetch(Statement("SELECT 1", (), {}))
    assert database.note() is None
    await engine.dispose()


async def test_a_database_that_takes_no_connections_is_away(
    postgres_url: str, postgres_server: EmbeddedPostgres
) -> None:
    engine, name = build_engine(postgres_url, pool_size=1, pre_ping=False), urlsplit(postgres_url).path[1:]
    await asyncio.to_thread(postgres_server.run_sql, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    with pytest.raises(DatabaseAway):
        await Database(engine).fetch(Statement("SELECT 1", (), {}))
    with pytest.raises(DatabaseAway):
        async with Database(engine).statements():
            pass


async def test_a_statement_that_was_given_up_disturbs_nobody(postgres_url: str) -> None:
    engine = build_engine(postgres_url, pool_size=1, pre_ping=False)
    database = Database(engine)
    asleep = create_async_engine(postgres_url)

    found = text("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'")

    for _ in range(3):
        given_up = asyncio.create_task(database.fetch(Statement("SELECT pg_sleep(30)", (), {})))
        async with asyncio.timeout(PATIENT_SECONDS):
            while await _scalar(asleep, found) == 0:
                await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert [row[0] for row in await database.fetch(Statement("SELECT 1", (), {}))] == [1]
    async with asyncio.timeout(PATIENT_SECONDS):
        while await _scalar(asleep, found):
            await asyncio.sleep(0.01)
    await asleep.dispose()
    await engine.dispose()


async def test_who_goes_leaves_no_connection_in_the_middle_of_a_statement(postgres_url: str) -> None:
    engine = build_engine(postgres_url, pool_size=4, pre_ping=False)
    database = Database(engine)
    watching = create_async_engine(postgres_url)
    unfinished = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'chat-sessions' AND state <> 'idle' AND datname = current_database()"
    )
    # Each is another text, so that it is prepared: between that and its run the driver waits, and PostgreSQL with it.
    for number in range(60):
        statement = Statement(f"SELECT {number} FROM generate_series(1, 50)", (), {})
        given_up = [asyncio.create_task(database.fetch(statement)) for _ in range(4)]
        await asyncio.sleep(number % 20 * 0.0003)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        async with asyncio.timeout(PATIENT_SECONDS):
            while await _scalar(watching, unfinished):
                await asyncio.sleep(0.01)
    await watching.dispose()
    await engine.dispose()
