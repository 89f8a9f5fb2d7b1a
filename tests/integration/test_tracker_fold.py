"""The fold transaction against PostgreSQL: exact under duplicates, disorder, and two trackers at once."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.contracts.session import FailureKind, SessionStatus
from services.database.engine import asyncpg_url, build_engine
from services.session_tracker.fold import Arrival
from services.session_tracker.lifecycle import Session, apply, opened
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents, in_another_name


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(postgres_url, pool_size=8)
    await Months(engine).make_ahead(datetime.now(UTC))
    yield engine
    await engine.dispose()


@pytest.fixture
async def rows(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(asyncpg_url(postgres_url))
    yield connection
    await connection.close()


def arrivals(events: Sequence[TrackedEvent], partition: int = 0) -> list[Arrival]:
    return [Arrival(event, event.occurred_at, partition, position) for position, event in enumerate(events)]


async def test_a_conversation_from_message_to_reply(engine, rows, postgres_url) -> None:
    events, store = SessionEvents(), SessionStore(engine)
    sent, reply = events.sent("hello", template_id="t1", template_version=7), events.succeeded("good day")
    first = await store.fold(arrivals([sent]), {("chat.messages.v1", 0): sent.occurred_at})
    second = await store.fold(arrivals([reply]), {})
    assert [(t.previous, t.session.status) for t in (*first.transitions, *second.transitions)] == [
        (None, SessionStatus.ACTIVE),
        (SessionStatus.ACTIVE, SessionStatus.COMPLETED),
    ]
    row = await rows.fetchrow("SELECT * FROM chat_sessions")
    assert (row["id"], row["sessionId"], row["status"]) == (events.session_id, events.session_id, "COMPLETED")
    assert (row["endedAt"], row["templateId"], row["version"]) == (reply.occurred_at, "t1", 2)
    assert row["templateVersion"] == 7
    messages = await rows.fetch('SELECT role, content FROM messages ORDER BY "createdAt"')
    assert [tuple(m) for m in messages] == [("user", "hello"), ("persona", "good day")]
    assert await rows.fetchval('SELECT "userId" FROM conversations WHERE "conversationId" = $1', "c1") == "u1"
    assert await rows.fetchval('SELECT "foldedUpTo" FROM fold_progress') == sent.occurred_at
    assert await store.read([events.session_id]) == [second.transitions[0].session]
    await assert_rollups_exact(postgres_url)


async def test_a_session_keeps_the_trace_of_its_first_message(engine, rows) -> None:
    events, store = SessionEvents(), SessionStore(engine)
    reply, sent, again = events.succeeded(), events.sent(), events.sent()
    trace, other = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"

    async def kept_after(event: TrackedEvent, trace_id: str | None) -> str | None:
        await store.fold([Arrival(event, event.occurred_at, 0, 0, trace_id=trace_id)], {})
        found: str | None = await rows.fetchval('SELECT "traceId" FROM chat_sessions')
        return found

    assert await kept_after(reply, None) is None
    assert await kept_after(sent, trace) == trace
    assert await kept_after(again, other) == trace
    assert await kept_after(events.cancelled(), None) == trace
    assert [session.trace_id for session in await store.read([events.session_id])] == [trace]


async def test_a_batch_folded_twice_changes_nothing(engine, rows, postgres_url) -> None:
    events, store = SessionEvents(), SessionStore(engine)
    batch = arrivals([events.sent(), events.attempted(), events.failed(FailureKind.TIMEOUT)])
    await store.fold(batch, {})
    before = await rows.fetchrow("SELECT * FROM chat_sessions")
    again = await store.fold(batch + batch, {})
    assert (again.events, again.transitions) == (0, [])
    assert await rows.fetchrow("SELECT * FROM chat_sessions") == before
    assert await rows.fetchval("SELECT count(*) FROM session_events") == 3
    await assert_rollups_exact(postgres_url)


async def test_a_late_reply_is_kept_and_changes_nothing(engine, rows, postgres_url) -> None:
    events, store = SessionEvents(), SessionStore(engine)
    await store.fold(arrivals([events.sent(), events.cancelled()]), {})
    before = await rows.fetchrow("SELECT * FROM chat_sessions")
    late = events.succeeded("too late")
    committed = await store.fold(arrivals([late]), {})
    assert committed.late == 1
    assert await rows.fetchrow("SELECT * FROM chat_sessions") == before
    history = await rows.fetchrow('SELECT late, body FROM session_events WHERE "eventId" = $1', late.event_id)
    assert history["late"]
    assert "too late" in history["body"]
    assert await rows.fetchval("SELECT count(*) FROM messages") == 1
    await assert_rollups_exact(postgres_url)


@pytest.mark.parametrize("identity", [{"user_id": "u2"}, {"persona_id": "p2"}, {"conversation_id": "c2"}])
@pytest.mark.parametrize("one_batch", [True, False])
async def test_events_in_another_name_are_refused(engine, rows, postgres_url, identity, one_batch) -> None:
    events, store = SessionEvents(), SessionStore(engine)
    sent = events.sent()
    foreign = in_another_name(events.succeeded("not yours"), **identity)
    batches = [[sent, foreign]] if one_batch else [[sent], [foreign]]
    committed = [await store.fold(arrivals(batch), {}) for batch in batches]
    assert [arrival.event for one in committed for arrival in one.refused] == [foreign]
    assert await rows.fetchval("SELECT status FROM chat_sessions") == "ACTIVE"
    assert await rows.fetchval("SELECT count(*) FROM session_events") == 1
    await assert_rollups_exact(postgres_url)


async def test_the_first_to_write_owns_the_conversation(engine, rows) -> None:
    store = SessionStore(engine)
    await store.fold(arrivals([SessionEvents(user="u1").sent(), SessionEvents(user="u2").sent()]), {})
    assert await rows.fetchval("SELECT count(*) FROM chat_sessions") == 2
    assert await rows.fetchval('SELECT "userId" FROM conversations') == "u1"


def script(chance: random.Random, number: int) -> list[TrackedEvent]:
    """Return the events of one session: its message, some attempts, and none to three endings."""
    ids = {"conversation": f"c{number % 7}", "persona": f"p{number % 3}", "user": f"u{number % 5}"}
    hours = timedelta(hours=chance.choice([0, 0, 1, 2]))
    past = UUID(int=(int((datetime.now(UTC) - hours).timestamp() * 1000) << 80) | (new_id().int & ((1 << 80) - 1)))
    events = SessionEvents(session_id=past, **ids)
    endings = [events.succeeded, events.failed, events.cancelled]
    chance.shuffle(endings)
    tried = [events.attempted(n + 1) for n in range(chance.randint(0, 2))]
    return [events.sent(f"message {number}"), *tried, *(end() for end in endings[: chance.randint(0, 3)])]


def folded_at_once(events: Sequence[TrackedEvent]) -> dict[SessionStatus, Session]:
    """Return the sessions that some order of the events can come to, by status."""
    results = {}
    for first in events:
        session = opened(events[0])
        for event in [first, *(e for e in events if e is not first)]:
            session = apply(session, event) or session
        results[session.status] = session
    return results


@pytest.mark.parametrize("seed", range(6))
async def test_two_trackers_on_the_same_sessions_count_everything_once(engine, rows, postgres_url, seed) -> None:
    chance = random.Random(seed)
    scripts = [script(chance, number) for number in range(150)]
    events = [event for one in scripts for event in one]

    async def tracker() -> None:
        store, own = SessionStore(engine), random.Random(chance.random())
        mine = own.sample(events, len(events)) + own.sample(events, len(events) // 3)
        while mine:
            size = own.randint(1, 80)
            batch, mine = mine[:size], mine[size:]
            await store.fold(arrivals(batch, own.randint(0, 7)), {})

    await asyncio.gather(tracker(), tracker(), tracker())

    for one in scripts:
        row = await rows.fetchrow('SELECT * FROM chat_sessions WHERE "sessionId" = $1', one[0].session_id)
        expected = folded_at_once(one)[SessionStatus(row["status"])]
        assert (row["version"], row["attempts"] >= expected.attempts - 1) == (expected.version, True)
        assert row["endedAt"] == expected.ended_at
        endings = [event for event in one if "Attempted" not in type(event).__name__][1:]
        late = await rows.fetchval(
            'SELECT count(*) FROM session_events WHERE "sessionId" = $1 AND late', one[0].session_id
        )
        assert late == max(0, len(endings) - 1)
        assert (row["status"] == "ACTIVE") == (not endings)
    assert await rows.fetchval("SELECT count(*) FROM session_events") == len(events)
    await assert_rollups_exact(postgres_url)
