"""The migrations build exactly the declared tables, and can be run at any time by anyone."""

import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, inspect, text

from services.commands.checkup.findings import Level
from services.commands.checkup.postgres import check_postgres
from services.database.engine import build_engine
from services.database.migrate import NotMigrated, alembic_config, migrate
from services.database.partitions import create_partitions, id_at
from services.database.rollups import MERGED_SHARD
from services.database.tables import metadata
from services.local.postgres import EmbeddedPostgres
from services.runtime.settings import PostgresSettings
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from tests.integration.tracker_process import connected, until_value
from tests.patience import PATIENT_SECONDS
from tests.recount import counted, recounted
from tests.sample_events import SessionEvents


@pytest.fixture
def empty_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database without tables, of the test's own."""
    name = f"empty_{uuid4().hex}"
    postgres_server.run_sql(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.run_sql(f"DROP DATABASE {name} WITH (FORCE)")


# Alembic compares neither of these.
CATALOGUE = """
    SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'table ' || relname || ' ' || relkind::text || ' ' || coalesce(pg_get_partkeydef(oid), '')
           || ' ' || coalesce(reloptions::text, '')
      FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
    UNION ALL
    SELECT 'column ' || attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod)
           || ' ' || attnotnull || ' ' || coalesce(pg_get_expr(adbin, adrelid), '')
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      JOIN pg_class ON pg_class.oid = attrelid
     WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'enum ' || typname || ' ' || string_agg(enumlabel, ',' ORDER BY enumsortorder)
      FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid GROUP BY typname
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
PARTITION_OF_AUDIT = re.compile(r"audit_log_\d{4}_\d{2}")


async def catalogue(url: str) -> list[str]:
    engine = build_engine(url)
    try:
        async with engine.connect() as connection:
            rows = await connection.scalars(text(CATALOGUE))
            return sorted(row for row in rows if "alembic_version" not in row and not PARTITION_OF_AUDIT.search(row))
    finally:
        await engine.dispose()


async def test_alembic_finds_no_difference_to_the_declared_tables(postgres_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or not PARTITION_OF_AUDIT.match(name),
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = build_engine(postgres_url)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


async def test_the_catalogue_is_that_of_the_declared_tables(postgres_url: str, empty_url: str) -> None:
    engine = build_engine(empty_url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
    finally:
        await engine.dispose()
    migrated = await catalogue(postgres_url)
    assert migrated == await catalogue(empty_url)
    assert any("ck_chat_sessions_id_is_session_id" in line for line in migrated)
    assert any("fk_messages_chatSessionId" in line for line in migrated)
    assert any("audit_log_rows_stay" in line for line in migrated)


async def test_an_upgrade_can_be_run_again(empty_url: str) -> None:
    await migrate(empty_url)
    once = await catalogue(empty_url)
    await migrate(empty_url)
    assert await catalogue(empty_url) == once


async def test_several_processes_may_migrate_at_once(empty_url: str, postgres_url: str) -> None:
    # Processes of their own: Alembic keeps what it works on in module globals, so threads would prove nothing.
    program = "import asyncio, sys; from services.database.migrate import migrate; asyncio.run(migrate(sys.argv[1]))"
    async with asyncio.timeout(60):
        running = [await _python(program, empty_url) for _ in range(3)]
        results = await asyncio.gather(*(process.communicate() for process in running))
    assert [(process.returncode, errors) for process, (_, errors) in zip(running, results, strict=True)] == [
        (0, b"")
    ] * 3
    assert await catalogue(empty_url) == await catalogue(postgres_url)


async def test_a_migration_gives_way_to_whoever_uses_its_table(empty_url: str) -> None:
    await migrate(empty_url)
    full = await catalogue(empty_url)
    await asyncio.to_thread(command.downgrade, alembic_config(empty_url), "0006")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'conversations'::regclass"
    async with connected(empty_url) as holder, connected(empty_url) as writer:
        async with holder.transaction():
            await holder.execute("LOCK TABLE conversations IN ROW EXCLUSIVE MODE")
            impatient = asyncio.create_task(migrate(empty_url, patience_seconds=0))
            await until_value(empty_url, waiting, 1)
            # Whoever comes later stands behind the migration, until it gives way.
            async with asyncio.timeout(PATIENT_SECONDS):
                await writer.execute("INSERT INTO conversations VALUES ('c', 'u')")
            with pytest.raises(NotMigrated, match=r"A table stays in use .*lock timeout"):
                await impatient
            # What came before is done.
            assert await writer.fetchval("SELECT version_num FROM alembic_version") == "0007"
            patient = asyncio.create_task(migrate(empty_url))
            await until_value(empty_url, waiting, 1)
            await until_value(empty_url, waiting, 0)
        assert await patient is None
    assert await catalogue(empty_url) == full


async def test_a_schema_of_a_later_release_is_left_as_it_is(empty_url: str) -> None:
    await migrate(empty_url)
    async with connected(empty_url) as rows:
        await rows.execute("UPDATE alembic_version SET version_num = '9999'")
        full = await catalogue(empty_url)
        assert await migrate(empty_url) == "9999"
        assert await catalogue(empty_url) == full
        found = await check_postgres(PostgresSettings(database_url=SecretStr(empty_url)))
        assert {finding.check: finding.level for finding in found}["postgres.schema"] is Level.WELL
        await rows.execute("UPDATE alembic_version SET version_num = '0000'")
        with pytest.raises(NotMigrated, match="The schema 0000 is none of this release's"):
            await migrate(empty_url)


async def test_a_downgrade_leaves_nothing_and_an_upgrade_follows_it(empty_url: str) -> None:
    await migrate(empty_url)
    full = await catalogue(empty_url)
    await asyncio.to_thread(command.downgrade, alembic_config(empty_url), "base")
    assert await catalogue(empty_url) == []
    await migrate(empty_url)
    assert await catalogue(empty_url) == full


async def test_the_audit_log_is_carried_over_both_ways(empty_url: str) -> None:
    upgrade, downgrade, config = command.upgrade, command.downgrade, alembic_config(empty_url)
    await asyncio.to_thread(upgrade, config, "0001")
    engine = build_engine(empty_url)
    entry = (
        "INSERT INTO audit_log (id, at, actor, action, target, outcome)"
        " VALUES (gen_random_uuid(), :at, 'ada', 'cleanup', '', 'done')"
    )
    times = [datetime(2026, 10, 31, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)]
    try:
        async with engine.begin() as connection:
            for at in times:
                await connection.execute(text(entry), {"at": at})
        await migrate(empty_url)
        found = text('SELECT at, "actorKind", tableoid::regclass::text FROM audit_log ORDER BY at')
        async with engine.connect() as connection:
            rows = [tuple(row) for row in await connection.execute(found)]
        assert rows == [(times[0], "admin", "audit_log_2026_10"), (times[1], "admin", "audit_log_2026_12")]
        await asyncio.to_thread(downgrade, config, "0001")
        async with engine.connect() as connection:
            assert list(await connection.scalars(text("SELECT at FROM audit_log ORDER BY at"))) == times
    finally:
        await engine.dispose()


OLD_ROWS = """
    INSERT INTO sweeps ("sweepId", "requestedBy", "asOf", "maxAgeHours", "dryRun", untold)
    VALUES ('00000000-0000-0000-0000-000000000001', 'root', now(), 24, false, '{}'),
           ('00000000-0000-0000-0000-000000000002', 'root', now(), 24, false, '{00000000-0000-0000-0000-000000000009}');
    INSERT INTO session_rollups
    SELECT granularity, '2026-11-01', scope, 0, 5, 6, 0, 0, 0, 0, '{}', '{}', '{}', '{}'
    FROM unnest('{hour,day}'::text[]) AS granularity, unnest('{global,persona:p,user:u}'::text[]) AS scope
"""


async def test_what_is_untold_and_the_counts_of_users_are_carried_over(empty_url: str) -> None:
    await asyncio.to_thread(command.upgrade, alembic_config(empty_url), "0002")
    async with connected(empty_url) as rows:
        await rows.execute(OLD_ROWS)
        await migrate(empty_url)
        assert [tuple(row) for row in await rows.fetch("SELECT * FROM untold_chunks")] == [(UUID(int=2), [UUID(int=9)])]
        counts = await rows.fetch("SELECT granularity, scope, active, completed FROM session_rollups ORDER BY 2, 1")
    assert [tuple(row) for row in counts] == [
        ("day", "global", 5, 6),
        ("hour", "global", 5, 6),
        ("week", "global", 5, 6),
        ("day", "persona:p", 5, 6),
        ("hour", "persona:p", 5, 6),
        ("week", "persona:p", 5, 6),
        ("day", "user:u", 0, 6),
    ]


async def test_weeks_are_made_of_the_days_that_there_are(empty_url: str) -> None:
    await migrate(empty_url)
    engine = build_engine(empty_url)
    try:
        for number in range(60):
            at = datetime(2026, 10, 20, tzinfo=UTC) + number * timedelta(hours=7)
            session_id = UUID(int=id_at(at).int | number + 1)
            told = SessionEvents(session_id=session_id, conversation="c", persona=f"p{number % 3}", user="u")
            events = told.sent(), [told.succeeded, told.failed, told.sent][number % 3]()
            await Months(engine).ensure(session_id)
            await SessionStore(engine).fold([Arrival(event, at, number % 4, number) for event in events], {})
    finally:
        await engine.dispose()
    async with connected(empty_url) as rows:
        right = await recounted(rows)
        await asyncio.to_thread(command.downgrade, alembic_config(empty_url), "0010")
        assert await counted(rows) == {cell: count for cell, count in right.items() if cell[0] != "week"}
        await migrate(empty_url)
        assert await counted(rows) == right
        weeks = "SELECT DISTINCT shard, count(*) FROM session_rollups WHERE granularity = 'week' GROUP BY 1"
        assert [tuple(row) for row in await rows.fetch(weeks)] == [(MERGED_SHARD, 3 * 4)]


async def test_a_downgrade_works_with_partitions(postgres_url: str) -> None:
    engine = build_engine(postgres_url)
    try:
        async with engine.begin() as connection:
            await create_partitions(connection, datetime(2026, 11, 1, tzinfo=UTC))
        await asyncio.to_thread(command.downgrade, alembic_config(postgres_url), "base")
        async with engine.connect() as connection:
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert tables == ["alembic_version"]
    finally:
        await engine.dispose()


async def _python(program: str, argument: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, argument, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
