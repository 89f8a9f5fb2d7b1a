"""What SessionStore makes of PostgreSQL's own troubles."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from services.database.engine import build_engine
from services.session_tracker.faults import PostgresAway, RefusedByPostgres, postgres_faults
from services.session_tracker.store import SessionStore
from tests.integration.tracker_process import connected, until

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def test_connections_that_postgres_closed_are_replaced(postgres_url: str) -> None:
    engine = build_engine(postgres_url, pool_size=3, pre_ping=False)
    try:
        store = SessionStore(engine)
        await asyncio.gather(*(store.read([]) for _ in range(3)))
        async with connected(postgres_url) as rows:
            assert await rows.fetchval(f"SELECT count(pg_terminate_backend(pid)) {OTHERS}") == 3

            async def gone() -> bool:
                return bool(await rows.fetchval(f"SELECT count(*) {OTHERS}") == 0)

            await until(gone, "the connections were closed")

        async def works() -> bool:
            try:
                return await store.read([]) == []
            except PostgresAway:
                return False

        for _ in range(4):
            await until(works, "the store had a connection that works", seconds=2)
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("SELECT 1/0", RefusedByPostgres),
        ("SELECT pg_terminate_backend(pg_backend_pid())", PostgresAway),
        ("SELECT * FROM no_such_table", PostgresAway),
        ("INSERT INTO dropped_months VALUES (NULL)", RefusedByPostgres),
    ],
)
@pytest.mark.parametrize("through_sqlalchemy", [True, False])
async def test_errors_of_statements_are_told_apart(postgres_url, statement, fault, through_sqlalchemy) -> None:
    with pytest.raises(fault):
        await run(postgres_url, statement, through_sqlalchemy=through_sqlalchemy)


@pytest.mark.parametrize("statement", ["SELEC 1", "SELECT no_such_column FROM chat_sessions"])
@pytest.mark.parametrize(
    ("through_sqlalchemy", "bug"), [(True, ProgrammingError), (False, asyncpg.SyntaxOrAccessError)]
)
async def test_a_wrong_statement_is_a_bug(postgres_url, statement, through_sqlalchemy, bug) -> None:
    with pytest.raises(bug):
        await run(postgres_url, statement, through_sqlalchemy=through_sqlalchemy)


async def run(postgres_url: str, statement: str, *, through_sqlalchemy: bool) -> None:
    engine = build_engine(postgres_url, pool_size=1, pre_ping=False)
    try:
        if through_sqlalchemy:
            with postgres_faults():
                async with engine.begin() as connection:
                    await connection.execute(text(statement))
        else:
            async with SessionStore(engine).transaction() as driver:
                await driver.execute(statement)
    finally:
        await engine.dispose()
