"""Erasures against PostgreSQL and a broker: nothing of the user stays or comes back, and nobody else loses a thing."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import ErasureRequested, TrackedEvent
from services.contracts.ids import new_id
from services.contracts.topics import CONTROL, TRACKER_GROUP, dead_letter_topic
from services.database.engine import build_engine
from services.database.partitions import id_at, next_month
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker import erasing
from services.session_tracker.erasing import Erasing
from services.session_tracker.faults import PostgresAway
from services.session_tracker.fold import Arrival, by_session, fold
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.recovery import recover
from services.session_tracker.retention import Retention
from services.session_tracker.store import SessionStore
from services.session_tracker.upkeep import run
from tests.integration.kafka_log import producer, read_all
from tests.integration.tracker_process import connected, publish_events, tracker, until, until_value
from tests.recount import assert_rollups_exact, counted, recounted
from tests.sample_events import SessionEvents

KEY = b"k" * 32
NAMES = Pseudonyms(KEY)
ALICE, BOB = "alice", "bob"
SECRET = "kangaroo"
"""In everything that alice, or a persona for her, has written."""
BEFORE = datetime(2026, 11, 1, 1, 0, tzinfo=UTC)
TABLES = (
    "chat_sessions",
    "messages",
    "session_events",
    "conversations",
    "session_rollups",
    "audit_log",
    "fold_progress",
    "untold_chunks",
)


def request(user: str = ALICE, before: datetime = BEFORE, conversation: str = "c1") -> ErasureRequested:
    return ErasureRequested(
        event_id=new_id(),
        occurred_at=min(before, datetime.now(UTC)),
        conversation_id=conversation,
        user_id=user,
        requested_by="root",
        before=before,
    )


def session_at(moment: datetime, user: str = ALICE, conversation: str = "c1") -> SessionEvents:
    session_id = UUID(int=id_at(moment).int | new_id().int & (1 << 80) - 1)
    return SessionEvents(session_id=session_id, user=user, conversation=conversation)


def talk(one: SessionEvents, end: str = "succeeded") -> list[TrackedEvent]:
    """A session's events, whose every text has the secret in it."""
    told: list[Any] = [one.sent(f"my {SECRET}"), one.attempted(error_message=SECRET, response_body=SECRET)]
    match end:
        case "succeeded":
            told.append(one.succeeded(f"your {SECRET}"))
        case "failed":
            told.append(one.failed())
        case "cancelled":
            told.append(one.cancelled())
    personal = {"error_message": SECRET, "reason": SECRET, "metadata": {"note": SECRET, "userAgent": SECRET}}
    return [e.model_copy(update={k: v for k, v in personal.items() if hasattr(e, k)}) for e in told]


@dataclass(frozen=True)
class World:
    """A database, what folds into it, and what erases from it."""

    engine: AsyncEngine
    rows: asyncpg.Connection
    url: str
    metrics: TrackerMetrics

    @property
    def store(self) -> SessionStore:
        return SessionStore(self.engine, NAMES)

    async def fold(self, events: Iterable[TrackedEvent], partition: int = 0) -> None:
        events = list(events)
        months = Months(self.engine)
        for event in events:
            await months.ensure(event.session_id)
        await self.store.fold([Arrival(e, e.occurred_at, partition, n) for n, e in enumerate(events)], {})

    async def erase(self, *requests: ErasureRequested) -> None:
        await self.store.begin_erasures(requests or [request()])
        await self.finish()

    async def finish(self) -> None:
        await Erasing(self.engine, NAMES, self.metrics).run(datetime.now(UTC))

    async def everything(self, tables: Sequence[str] = TABLES) -> str:
        """All that the database holds, as text."""
        found = [await self.rows.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} t") for table in tables]
        return "\n".join(sorted(row["row"] for rows in found for row in rows))

    async def of(self, user: str) -> list[Any]:
        """All that a user's sessions are made of."""
        sessions = 'SELECT id FROM chat_sessions WHERE "userId" = $1'
        queries = [
            'SELECT * FROM chat_sessions WHERE "userId" = $1 ORDER BY "sessionId"',
            f'SELECT * FROM messages WHERE "chatSessionId" IN ({sessions}) ORDER BY 2, 1',
            f'SELECT * FROM session_events WHERE "sessionId" IN ({sessions}) ORDER BY 1, 2',
            'SELECT * FROM conversations WHERE "userId" = $1 ORDER BY 1',
        ]
        return [[tuple(row) for row in await self.rows.fetch(query, user)] for query in queries]

    async def erasure(self) -> asyncpg.Record:
        return await self.rows.fetchrow("SELECT * FROM erasures")


@pytest.fixture
async def world(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(erasing, "REST", 0)
    engine = build_engine(postgres_url, pool_size=8)
    async with connected(postgres_url) as rows:
        yield World(engine, rows, postgres_url, TrackerMetrics(CollectorRegistry()))
    await engine.dispose()


async def assert_gone(world: World, tables: Sequence[str] = TABLES) -> None:
    everything = await world.everything(tables)
    assert SECRET not in everything
    assert ALICE not in everything


async def test_everything_that_the_user_wrote_is_taken_out_and_what_counts_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "CHUNK", 3)
    ends = ["succeeded", "failed", "cancelled", "open"] * 3
    hers = [
        talk(session_at(BEFORE - timedelta(hours=7 * n + 1), conversation=f"c{n % 5}"), end)
        for n, end in enumerate(ends)
    ]
    await world.fold(event for told in hers for event in told)
    before = {row["sessionId"]: row for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    history = await world.rows.fetch('SELECT "sessionId", "eventId", type, late FROM session_events ORDER BY 1, 2')
    await world.erase()
    await assert_gone(world)
    after = {row["sessionId"]: row for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    unchanged = [name for name in dict(before.popitem()[1]) if name not in {"userId", "metadata", "errorMessage"}]
    for session_id, row in before.items():
        assert [after[session_id][name] for name in unchanged] == [row[name] for name in unchanged]
    assert {row["userId"] for row in after.values()} == {NAMES.erased(ALICE)}
    assert {(row["metadata"], row["errorMessage"]) for row in after.values()} == {("{}", None)}
    assert (
        await world.rows.fetch('SELECT "sessionId", "eventId", type, late FROM session_events ORDER BY 1, 2') == history
    )
    assert await world.rows.fetchval("SELECT count(*) FROM session_events WHERE body IS NOT NULL") == 0
    assert await world.rows.fetchval("SELECT count(*) FROM messages WHERE content IS NOT NULL") == 0
    erasure = await world.erasure()
    counts = [erasure[name] for name in ("conversations", "sessions", "messages", "events")]
    assert counts == [5, 12, 15, len(history)]
    assert erasure["finishedAt"] is not None
    assert await counted(world.rows) == await recounted(world.rows)
    assert world.metrics.erased._value.get() == 12
    told = await world.rows.fetchrow("SELECT * FROM audit_log WHERE action = 'user.erase'")
    assert (told["actor"], told["target"], told["outcome"]) == ("session-tracker", f"user:{NAMES.of(ALICE)}", "erased")


async def test_nobody_else_and_nothing_later_loses_a_thing(world: World) -> None:
    old = session_at(BEFORE - timedelta(minutes=1))
    later = session_at(BEFORE)
    bobs = [session_at(BEFORE - timedelta(hours=n), BOB, conversation="c1") for n in range(3)]
    bobs.append(session_at(BEFORE - timedelta(minutes=1), BOB, conversation="of-bob"))
    await world.fold([*talk(old), *talk(later), *(event for one in bobs for event in talk(one))])
    before = await world.of(BOB)
    await world.erase()
    assert await world.of(BOB) == before
    sessions, messages, events, conversations = await world.of(ALICE)
    assert [row[4] for row in sessions] == [later.session_id]
    assert all(SECRET in row[3] for row in messages)
    assert len(events) == 3
    assert conversations == []
    assert await counted(world.rows) == await recounted(world.rows)


async def test_events_that_come_again_and_events_that_come_late_bring_nothing_back(world: World) -> None:
    known, late, unseen, other = (session_at(BEFORE - timedelta(minutes=n)) for n in range(1, 5))
    first = [*talk(known), late.sent(f"my {SECRET}"), *talk(other, "open")]
    await world.fold(first)
    await world.erase()
    snapshot = await world.everything()
    await world.fold(first)
    assert await world.everything() == snapshot
    ending = late.succeeded(f"your {SECRET}", at=BEFORE + timedelta(hours=2))
    cancel = other.cancelled(by=ALICE).model_copy(update={"reason": SECRET})
    await world.fold([ending, known.failed().model_copy(update={"error_message": SECRET}), cancel])
    await world.fold(talk(unseen))
    await assert_gone(world)
    found = await world.rows.fetch('SELECT "sessionId", status, "userId", version FROM chat_sessions ORDER BY 1 DESC')
    assert [tuple(row) for row in found] == [
        (known.session_id, "COMPLETED", NAMES.erased(ALICE), 3),
        (late.session_id, "COMPLETED", NAMES.erased(ALICE), 2),
        (unseen.session_id, "COMPLETED", NAMES.erased(ALICE), 3),
        (other.session_id, "CANCELLED", NAMES.erased(ALICE), 3),
    ]
    assert await world.rows.fetchval("SELECT count(*) FROM session_events WHERE late") == 1
    assert await counted(world.rows) == await recounted(world.rows)
    await world.erase()  # the same request again
    assert len(await world.rows.fetch("SELECT * FROM erasures")) == 1


async def test_what_an_admin_cancels_after_an_erasure_keeps_nothing_personal_either(world: World) -> None:
    one = session_at(BEFORE - timedelta(minutes=1))
    await world.fold([one.sent(f"my {SECRET}")])
    await world.erase()
    cancel = one.cancelled(by="root").model_copy(update={"user_id": NAMES.erased(ALICE), "reason": SECRET})
    await world.fold([cancel])
    assert await world.rows.fetchval("SELECT status FROM chat_sessions") == "CANCELLED"
    await assert_gone(world)
    audit = await world.rows.fetch("SELECT actor FROM audit_log WHERE action = 'session.cancel'")
    assert [row["actor"] for row in audit] == ["root"]


moments = st.integers(-300, 60)
ENDS = ("succeeded", "failed", "cancelled", "open")
scripts = st.lists(
    st.tuples(moments, st.sampled_from([ALICE, BOB]), st.integers(0, 2), st.sampled_from(ENDS)), min_size=1, max_size=9
)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scripts=scripts, order=st.randoms(use_true_random=False), begun=st.integers(0, 6), worked=st.integers(0, 6))
async def test_whenever_it_comes_the_same_is_left(world: World, scripts, order, begun: int, worked: int) -> None:
    """Batches in any order, some twice; the erasure begins and is worked on between any two of them."""
    await world.rows.execute(
        "TRUNCATE chat_sessions, messages, session_events, conversations, session_rollups, erasures, rollup_checks"
    )
    told = [
        talk(session_at(BEFORE + timedelta(minutes=minute), user, f"{user}-{number}"), end)
        for minute, user, number, end in scripts
    ]
    events = [event for one in told for event in one]
    rest = order.sample(events + events[::2], len(events) + len(events[::2]))
    for step in range(8):
        if step == begun:
            await world.store.begin_erasures([request()])
        if step >= begun and step == worked:
            await world.finish()
        await world.fold(rest[step::8], step)
    await world.finish()
    rows = {row["sessionId"]: row for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    for session_id, arrivals in by_session([Arrival(e, e.occurred_at, 0, n) for n, e in enumerate(events)]):
        row, session = rows[session_id], fold(None, arrivals).session
        erased = session.user_id == ALICE and session_id < id_at(BEFORE)
        assert (row["status"], row["version"], row["attempts"]) == (session.status, session.version, session.attempts)
        assert row["userId"] == (NAMES.erased(ALICE) if erased else session.user_id)
        assert json.loads(row["metadata"]) == ({} if erased else session.metadata)
        assert row["errorMessage"] == (None if erased else session.error_message)
        kept = await world.rows.fetch('SELECT "eventId", body FROM session_events WHERE "sessionId" = $1', session_id)
        assert {r["eventId"] for r in kept} == {a.event.event_id for a in arrivals}
        assert all((r["body"] is None) == erased for r in kept)
        said = await world.rows.fetch('SELECT content FROM messages WHERE "chatSessionId" = $1', session_id)
        assert all((r["content"] is None) == erased for r in said)
        assert len(said) == sum(type(a.event).__name__ in {"MessageSent", "WebhookSucceeded"} for a in arrivals)
    assert await counted(world.rows) == await recounted(world.rows)
    for _ in range(30):
        await world.rows.execute("UPDATE rollup_checks SET \"checkedAt\" = '2020-01-01'")
        assert (await run(world.engine, BEFORE + timedelta(hours=1))).drift == 0


async def test_a_crash_between_two_chunks_loses_nothing_and_repeats_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "CHUNK", 2)
    await world.fold(e for n in range(1, 8) for e in talk(session_at(BEFORE - timedelta(days=n), conversation=f"c{n}")))
    await world.store.begin_erasures([request()])
    write, left = erasing.write_counts, iter([True, True, False])

    async def write_or_crash(*arguments: Any) -> None:
        await write(*arguments)
        if not next(left, True):
            raise PostgresAway("The process is gone before its transaction is committed.")

    monkeypatch.setattr(erasing, "write_counts", write_or_crash)
    with pytest.raises(PostgresAway):
        await world.finish()
    assert (await world.erasure())["sessions"] == 4
    assert await counted(world.rows) == await recounted(world.rows), "half done, and right"
    await world.finish()
    assert (await world.erasure())["sessions"] == 7
    await assert_gone(world)
    assert await counted(world.rows) == await recounted(world.rows)


async def test_an_erasure_waits_for_folds_that_have_not_heard_of_it(world: World) -> None:
    one = session_at(BEFORE - timedelta(minutes=1))
    await Months(world.engine).ensure(one.session_id)
    written, go_on = asyncio.Event(), asyncio.Event()

    class Slow(SessionStore):
        async def _told_of_erasures(self, driver: Any, arrivals: Any) -> Any:
            told = await super()._told_of_erasures(driver, arrivals)
            written.set()
            await go_on.wait()
            return told

    arrivals = [Arrival(event, event.occurred_at, 0, n) for n, event in enumerate(talk(one))]
    folding = asyncio.create_task(Slow(world.engine, NAMES).fold(arrivals, {}))
    await written.wait()
    beginning = asyncio.create_task(world.store.begin_erasures([request()]))
    async with asyncio.timeout(10):
        while not await world.rows.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    # Who asks now waits behind the erasure, and then knows of it.
    second = session_at(BEFORE - timedelta(minutes=2))
    asking = asyncio.create_task(world.fold(talk(second)))
    async with asyncio.timeout(10):
        while await world.rows.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
            await asyncio.sleep(0.01)
    assert not beginning.done()
    go_on.set()
    await asyncio.gather(folding, beginning, asking)
    assert SECRET in await world.everything(), "the first fold had not heard of it"
    await world.finish()
    await assert_gone(world)


async def test_an_erasure_that_a_fold_holds_up_gives_way(world: World) -> None:
    async with world.store.transaction() as driver:
        await world.store._told_of_erasures(driver, [Arrival(session_at(BEFORE).sent(), BEFORE, 0, 0)])
        with pytest.raises(PostgresAway):
            await world.store.begin_erasures([request()])
    await world.store.begin_erasures([request()])
    assert await world.erasure() is not None


async def test_readers_of_erasures_hold_nobody_up(world: World) -> None:
    async with connected(world.url) as reader, reader.transaction():
        await reader.fetch("SELECT * FROM erasures")  # as a dump does
        await world.erase()


async def test_the_statistics_of_dropped_months_go_to_what_stands_for_the_user(world: World) -> None:
    may = datetime(2026, 5, 3, tzinfo=UTC)
    await world.fold([*talk(session_at(may)), *talk(session_at(may, BOB)), *talk(session_at(BEFORE))])
    await Retention(world.engine, world.metrics, keep=timedelta(days=30)).drop_due(next_month(may) + timedelta(days=60))
    before = await counted(world.rows)
    await world.erase()
    after = await counted(world.rows)
    renamed = {
        (
            granularity,
            scope.replace(f"user:{ALICE}", f"user:{NAMES.erased(ALICE)}")
            if day < BEFORE - timedelta(days=1)
            else scope,
            day,
            what,
        ): n
        for (granularity, scope, day, what), n in before.items()
    }
    assert after == renamed
    assert any(scope == f"user:{ALICE}" for _, scope, _, _ in after), "of the day itself, since"


async def test_two_users_one_after_the_other_and_one_twice(world: World) -> None:
    await world.fold([*talk(session_at(BEFORE - timedelta(hours=1))), *talk(session_at(BEFORE, BOB))])
    await world.fold(talk(session_at(BEFORE + timedelta(hours=1))))
    await world.erase(request(), request(BOB, BEFORE + timedelta(minutes=1)), request(conversation="c2"))
    assert len(await world.rows.fetch("SELECT * FROM erasures")) == 2
    await world.erase(request(before=BEFORE + timedelta(hours=2)))
    users = {row["userId"] for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    assert users == {NAMES.erased(ALICE), NAMES.erased(BOB)}
    assert await counted(world.rows) == await recounted(world.rows)
    assert world.metrics.erasures_open._value.get() == 0


async def test_without_a_key_the_user_is_nobody(world: World) -> None:
    await world.fold(talk(session_at(BEFORE - timedelta(minutes=1))))
    await world.store.begin_erasures([request()])
    await Erasing(world.engine, Pseudonyms(None), world.metrics).run(datetime.now(UTC))
    assert await world.rows.fetchval('SELECT "userId" FROM chat_sessions') == "erased:unnamed"
    await assert_gone(world)


async def test_recovery_sends_nothing_of_it_again(world: World, bootstrap: str) -> None:
    await world.fold([session_at(BEFORE - timedelta(minutes=1)).sent(SECRET), session_at(BEFORE, BOB).sent()])
    await world.store.begin_erasures([request()])
    async with producer(bootstrap) as client:
        assert await recover(world.engine, client) == 1, "that of bob"
        await world.finish()
        assert await recover(world.engine, client) == 1


async def test_a_tracker_applies_it_while_events_go_on(bootstrap: str, world: World) -> None:
    chance, now = random.Random(5), datetime.now(UTC)
    mine = [session_at(now - timedelta(minutes=n), conversation=f"c{n % 7}") for n in range(1, 60)]
    others = [session_at(now - timedelta(minutes=n), BOB, f"b{n % 7}") for n in range(1, 60)]
    events = [event for one in (*mine, *others) for event in talk(one)]
    chance.shuffle(events)
    requests = [request(before=now, conversation=f"c{n}") for n in range(7)]
    async with tracker(bootstrap, world.url, user_hash_key=KEY.decode()) as running:
        await running.until_ready()
        await publish_events(bootstrap, events[:150])
        await publish_events(bootstrap, [*events[150:200], *requests, *events[200:]])
        await publish_events(bootstrap, events[:50])
        await until_value(world.url, "SELECT count(*) FROM session_events", len(events))
        await until_value(world.url, 'SELECT count(*) FROM erasures WHERE "finishedAt" IS NOT NULL', 1)

        async def told() -> bool:
            return "chat_erasures_open 0.0" in await running.metrics()

        await until(told, "the metric told that none is open")
    assert ALICE not in await world.everything()
    assert await world.rows.fetchval(f"SELECT count(*) FROM messages WHERE content LIKE '%{SECRET}%'") == 2 * len(
        others
    )
    assert await world.rows.fetchval("SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'") == 118
    await assert_rollups_exact(world.url)


async def test_what_stands_for_a_user_is_no_user(bootstrap: str, world: World) -> None:
    async with tracker(bootstrap, world.url) as running:
        await running.until_ready()
        await publish_events(bootstrap, [request(NAMES.erased(ALICE), datetime.now(UTC))])
        topic = dead_letter_topic(CONTROL.name, TRACKER_GROUP).name

        async def refused() -> bool:
            return [dict(r.headers)["dlq-reason"] for r in await read_all(bootstrap, topic)] == [b"erased-user"]

        await until(refused, "it was dead-lettered")
    assert await world.erasure() is None
