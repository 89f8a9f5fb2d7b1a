"""Hot queries keep their index, and read no more than they need."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway import statistics_reads
from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.filters.grammar import parse
from services.api_gateway.filters.meaning import understood
from services.api_gateway.filters.sql import condition
from services.api_gateway.listing import Page, Position, Sort
from services.api_gateway.reads import SessionReads
from services.api_gateway.selection import Selection
from services.api_gateway.statistics import Span
from services.api_gateway.statistics_reads import Question, tallies
from services.api_gateway.user_data import UserData
from services.contracts import ErasureRequested, new_id
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.database.tables import chat_sessions, erasures
from services.local.postgres import EmbeddedPostgres
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker import erasing
from services.session_tracker import statements as sql
from services.session_tracker.endings import START
from services.session_tracker.erasing import Erasing
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.recovery import open_messages, untouched_since
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.timeouts import Timeouts
from tests.benchmarks.seeding import Seed, seed
from tests.integration.plans import TELL_PLANS, Plans, plans_of
from tests.integration.tracker_process import connected
from tests.recount import counted, recounted
from tests.sample_events import sweep

UNTIL = datetime(2026, 11, 20, tzinfo=UTC)
ADA, ROOT = Caller("user-3", is_admin=False), Caller("root", is_admin=True)
FIRST, LAST, SLOWEST = (Page(50, sort=sort) for sort in Sort)
DEEP_PLACE = Position(id_at(UNTIL - timedelta(days=80)))
DEEP = Page(50, after=DEEP_PLACE)
WAIT_FOR_CALLBACKS = """
    UPDATE chat_sessions SET status = 'ACTIVE', "deadlineAt" = $1::timestamptz + number * interval '1 second'
    FROM (SELECT "sessionId" AS id, row_number() OVER () AS number FROM chat_sessions LIMIT 2000) AS these
    WHERE "sessionId" = these.id
"""


def own(text: str = "") -> Selection:
    return replace(everyones(text), user_id="user-3")


def everyones(text: str = "") -> Selection:
    return Selection(None, understood(parse(text))) if text else Selection(None)


@pytest.fixture(scope="module")
def seeded_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The address of a database with sessions of four months, which no test changes."""
    name = "seeded_for_plans"
    postgres_server.run_sql(f"CREATE DATABASE {name} TEMPLATE {migrated_template} STRATEGY file_copy")
    asyncio.run(seed(postgres_server.url(name), Seed(15_000, UNTIL, personas=10)))
    yield postgres_server.url(name)
    postgres_server.run_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(seeded_url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(seeded_url, pool_size=1)
    yield engine
    await engine.dispose()


async def test_what_is_seeded_is_counted_as_the_tracker_would_have(seeded_url: str) -> None:
    async with connected(seeded_url) as rows:
        expected = await recounted(rows)
        # Minutes are kept for two days.
        kept = {key for key in expected if key[0] != "minute" or key[2] >= UNTIL - timedelta(hours=48)}
        assert await counted(rows) == {key: expected[key] for key in kept}


@pytest.fixture
async def plans(engine: AsyncEngine) -> Plans:
    return plans_of(engine)


async def test_hot_queries_read_by_index_and_little(engine: AsyncEngine, plans: Plans) -> None:
    reads = SessionReads(Database(engine))
    async with engine.connect() as connection:
        session_id = await connection.scalar(
            select(chat_sessions.c.session_id).where(chat_sessions.c.user_id == "user-3").limit(1)
        )
        conversation = await connection.scalar(
            select(chat_sessions.c.conversation_id).where(chat_sessions.c.user_id == "user-3").limit(1)
        )
    one = f'conversation:"{conversation}"'
    lists = {
        "by user": (own(), FIRST),
        "by user, oldest first": (own(), LAST),
        "by user and status": (own("status:FAILED"), FIRST),
        "by user, deep": (own(), DEEP),
        "by status and persona": (everyones("status:FAILED persona:persona-3"), FIRST),
        "by status and persona, deep": (everyones("status:FAILED persona:persona-3"), DEEP),
        "by conversation": (own(one), FIRST),
        "active of a conversation": (everyones(f"{one} status:ACTIVE"), FIRST),
        "of everyone, deep": (everyones(), DEEP),
        "an admin's user": (everyones("user:user-3 status:(FAILED OR TIMEOUT)"), FIRST),
        "of one hour": (everyones("startedAt:2026-11-10T10:00..2026-11-10T11:00"), LAST),
    }
    # Beyond the fifth time PostgreSQL may keep one plan for all parameters: it has to be as good.
    for _ in range(7):
        for name, (selection, page) in lists.items():
            async with plans.of_one_call():
                found, total = await reads.page(selection, page)
            assert bool(found) == (name != "active of a conversation")
            plans.assert_indexed()
            # A user's few sessions may all be looked at: they lie side by side in their index.
            assert plans.read() <= 2 * total + (800 if "user" in name else 400), name
        async with plans.of_one_call():
            assert await reads.detail(session_id, ADA, UNTIL)
        plans.assert_indexed()
        assert len(plans.scanned()) == 3


async def test_slowest_first_reads_no_more_than_its_range(engine: AsyncEngine, plans: Plans) -> None:
    reads = SessionReads(Database(engine))
    month = "startedAt:2026-10-15..2026-11-15"
    # A user's sessions of the range are found by their own index.
    for text, most in [(f"{month} user:user-3", f"{month} user:user-3"), (f"{month} persona:persona-3", month)]:
        async with engine.connect() as connection:
            held = await connection.scalar(select(func.count()).where(condition(understood(parse(most)))))
        assert held
        for page in (SLOWEST, replace(SLOWEST, after=Position(UUID(int=0), 1_500))):
            for _ in range(7):
                async with plans.of_one_call():
                    await reads.following(everyones(text), page)
                assert plans.read() <= held, text
                assert set(plans.scanned()) <= {"chat_sessions_2026_10", "chat_sessions_2026_11"}


async def test_an_export_reads_its_pages_by_index(engine: AsyncEngine, plans: Plans) -> None:
    reads = SessionReads(Database(engine))
    for selection in (own(), everyones(), everyones("persona:persona-3"), own("status:FAILED")):
        for sort in (Sort.NEWEST, Sort.OLDEST):
            for _ in range(7):
                async with plans.of_one_call():
                    assert await reads.following(selection, Page(100, sort=sort, after=DEEP_PLACE))
                plans.assert_indexed()


async def test_the_edges_of_a_users_statistics_are_read_by_index(
    engine: AsyncEngine, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_reads, "FEW_SESSIONS", 1)
    since = UNTIL - timedelta(days=60, minutes=-20)
    for _ in range(7):
        for question in (Question("user-3", None), Question("user-3", "persona-3"), Question(None, "persona-3")):
            async with plans.of_one_call():
                await tallies(Database(engine), question, Span(since, UNTIL - timedelta(minutes=7)), UNTIL)
            plans.assert_indexed()


async def test_a_users_statistics_are_read_from_the_index_alone(engine: AsyncEngine, plans: Plans) -> None:
    since = UNTIL - timedelta(days=60, minutes=-20)
    for _ in range(7):
        for question in (Question("user-3", None), Question("user-3", "persona-3"), Question("user-3", None, True)):
            async with plans.of_one_call():
                assert await tallies(Database(engine), question, Span(since, UNTIL), UNTIL)
            kinds = {node["Node Type"] for node in plans.nodes() if "chat_sessions" in node.get("Relation Name", "")}
            assert kinds == {"Index Only Scan"}


async def test_a_sweep_reads_only_active_sessions(engine: AsyncEngine, plans: Plans) -> None:
    store, timeouts = SweepStore(engine, SessionStore(engine)), Timeouts(24, {"persona-1": 2, "persona-2": 200})
    for _ in range(7):
        async with plans.of_one_call():
            chunk = await store.time_out(sweep(as_of=UNTIL + timedelta(days=2)), timeouts, START, 500)
            assert await store.count_stale(sweep(as_of=UNTIL), timeouts) == 0
        assert chunk.transitions == []
        plans.assert_indexed()
        assert plans.read() == 0


async def test_a_search_for_lost_messages_reads_only_active_sessions(engine: AsyncEngine, plans: Plans) -> None:
    for _ in range(7):
        async with plans.of_one_call():
            assert [page async for page in open_messages(engine, untouched_since(UNTIL + timedelta(days=2)))] == []
        plans.assert_indexed()
        assert plans.read() == 0


async def test_a_search_for_overdue_callbacks_reads_only_those(seeded_url: str) -> None:
    plans, due = Plans(), UNTIL + timedelta(seconds=30)
    async with connected(seeded_url) as driver:
        driver.add_log_listener(plans.hear)
        await driver.execute("BEGIN")  # never committed: the database is for other tests too
        await driver.execute(WAIT_FOR_CALLBACKS, UNTIL)
        await driver.execute(f"ANALYZE chat_sessions; {TELL_PLANS}")
        for _ in range(7):
            async with plans.of_one_call():
                found = await driver.fetch(sql.LOCK_OVERDUE, due, START.due_since, START.session_id, 500)
                await driver.execute("SELECT 1")  # in a transaction, PostgreSQL tells a plan when the next one begins
            assert [row["deadline_at"] for row in found] == [UNTIL + timedelta(seconds=n) for n in range(1, 31)]
            plans.assert_indexed()
            assert plans.read() == len(found)


async def test_everything_about_a_user_is_read_by_index(engine: AsyncEngine, plans: Plans) -> None:
    async with plans.of_one_call():
        pages = [page async for page in UserData(Database(engine), "user-3", "unnamed").pages()]
    [counts] = [line["counts"] for line in pages[-1]]
    plans.assert_indexed()
    assert plans.read() <= 2 * (counts["session"] + counts["message"] + counts["event"])
    assert "conversations" not in {n.get("Relation Name") for n in plans.nodes() if n["Node Type"] == "Seq Scan"}


async def test_a_user_is_erased_by_index(
    seeded_url: str, postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "REST", 0)
    monkeypatch.setattr(erasing, "CHUNK", 20)
    postgres_server.run_sql("CREATE DATABASE erased_for_plans TEMPLATE seeded_for_plans STRATEGY file_copy")
    engine = build_engine(postgres_server.url("erased_for_plans"), pool_size=3)
    plans = plans_of(engine)
    request = ErasureRequested(
        event_id=new_id(), occurred_at=UNTIL, conversation_id="c", user_id="user-3", requested_by="root", before=UNTIL
    )
    try:
        await SessionStore(engine).begin_erasures([request])
        async with plans.of_one_call():
            await Erasing(engine, Pseudonyms(None), TrackerMetrics(CollectorRegistry())).run(UNTIL)
        async with engine.connect() as connection:
            done = (await connection.execute(select(erasures))).one()
    finally:
        await engine.dispose()
        postgres_server.run_sql("DROP DATABASE erased_for_plans WITH (FORCE)")
    assert done.sessions > 40
    plans.assert_indexed()
    # Each row is found and written; what a chunk has written it leaves behind for the next one's index to skip.
    assert plans.read() <= 6 * (done.sessions + done.messages + done.events)
    assert "conversations" not in {n.get("Relation Name") for n in plans.nodes() if n["Node Type"] == "Seq Scan"}


async def test_a_read_of_one_session_looks_into_its_own_month_only(engine: AsyncEngine, plans: Plans) -> None:
    unknown = UUID(int=id_at(UNTIL - timedelta(days=40)).int | 7 << 76 | 1 << 63)
    async with plans.of_one_call():
        assert await SessionReads(Database(engine)).detail(unknown, ROOT, UNTIL) is None
    assert plans.scanned() == ["chat_sessions_2026_10"]
