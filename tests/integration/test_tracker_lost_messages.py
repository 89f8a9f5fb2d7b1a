"""Messages that Kafka lost before a dispatcher came to them: found, sent again once, and nothing else with them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts import AttemptOutcome, decode
from services.contracts.events import MessageSent, TrackedEvent
from services.contracts.ids import new_id
from services.contracts.topics import MESSAGES
from services.database.engine import build_engine
from services.session_tracker import backlog as backlog_module
from services.session_tracker import lost_messages as lost_module
from services.session_tracker.backlog import Backlog, BacklogTooLong
from services.session_tracker.fold import Arrival
from services.session_tracker.lost_messages import Look, LostMessages
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.recovery import recover
from services.session_tracker.store import SessionStore
from tests.engine import admin_of, on_apache_kafka
from tests.integration.dispatching import MESSAGE_PARTITIONS, add_persona, dispatcher, until_all_committed, until_ended
from tests.integration.kafka_log import eventually, producer, read_all, settings_for
from tests.integration.tracker_process import (
    TRACKER_PARTITIONS,
    Tracker,
    connected,
    publish_events,
    tracker,
    until,
    until_value,
)
from tests.integration.webhook_server import Call, echo, webhook_server
from tests.sample_events import SessionEvents

AT_ONCE = timedelta()
COMPLETED = "SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'"
SESSIONS = "SELECT count(*) FROM chat_sessions"
SECONDS = 1 / 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where sessions are tracked: what PostgreSQL knows, and what Kafka may not."""

    bootstrap: str
    engine: AsyncEngine
    client: AIOKafkaProducer
    rows: asyncpg.Connection

    async def know(self, *events: TrackedEvent) -> None:
        """Fold events of which Kafka has no record."""
        arrivals = [Arrival(event, event.occurred_at, 0, number) for number, event in enumerate(events)]
        await SessionStore(self.engine).fold(arrivals, {})

    async def folded_up_to(self, moment: datetime) -> None:
        progress = {(place.topic, place.partition): moment for place in TRACKER_PARTITIONS}
        await SessionStore(self.engine).move_progress(progress)

    async def look(self, *, every: timedelta = AT_ONCE, engine: AsyncEngine | None = None) -> Look:
        chosen = engine or self.engine
        metrics, backlog = TrackerMetrics(CollectorRegistry()), Backlog(settings_for(self.bootstrap))
        return await LostMessages(chosen, SessionStore(chosen), backlog, self.client, metrics, every=every).look()

    async def records(self) -> Counter[UUID]:
        """How many records each session's message has in Kafka."""
        return Counter(event.session_id for event in await sent(self.bootstrap))


async def sent(bootstrap: str) -> list[MessageSent]:
    decoded = [decode(r.topic, r.headers, r.value) for r in await read_all(bootstrap, MESSAGES.name)]
    return [event for event in decoded if isinstance(event, MessageSent)]


def ahead() -> datetime:
    """A moment that every look of a test lies before."""
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
async def place(bootstrap: str, postgres_url: str) -> AsyncIterator[Place]:
    engine = build_engine(postgres_url)
    try:
        await Months(engine).ensure(new_id())
        async with producer(bootstrap) as client, connected(postgres_url) as rows:
            yield Place(bootstrap, engine, client, rows)
    finally:
        await engine.dispose()


def several(count: int, **identity: str) -> list[SessionEvents]:
    return [SessionEvents(conversation=f"c{number}", **identity) for number in range(count)]


async def test_lost_messages_are_sent_again_once_and_completed(place: Place, postgres_url: str) -> None:
    lost, kept = [s.sent("lost", template_id="t", resumed_from=new_id()) for s in several(5)], several(5)
    await place.know(*lost)
    searching: dict[str, Any] = {"chat_session_recovery_minutes": 0.5 * SECONDS}
    async with (
        webhook_server() as webhook,
        dispatcher(place.bootstrap, postgres_url),
        tracker(place.bootstrap, postgres_url, **searching) as one,
        tracker(place.bootstrap, postgres_url, **searching) as two,
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(place.bootstrap, [session.sent() for session in kept])
        await until_value(postgres_url, COMPLETED, 10)

        async def looked_on() -> bool:
            return await looks(one) >= before_one + 2 and await looks(two) >= before_two + 2

        before_one, before_two = await looks(one), await looks(two)
        await until(looked_on, "both trackers had looked twice more")
        assert await metric(one, "chat_messages_republished_total") + await metric(
            two, "chat_messages_republished_total"
        ) == len(lost)
        await one.until_ready()
    assert set((await place.records()).values()) == {1}
    again = [event for event in await sent(place.bootstrap) if event.message == "lost"]
    assert sorted(again, key=lambda event: event.session_id) == lost
    assert set(webhook.counts.values()) == {1}
    assert await place.rows.fetchval(SESSIONS) == 10


async def looks(running: Tracker) -> float:
    """How often this tracker came to an end of its search, its own or because the other was at it."""
    return sum(
        [
            await metric(running, f'chat_recovery_looks_total{{outcome="{look}"}}')
            for look in (Look.DONE, Look.ELSEWHERE)
        ]
    )


async def metric(running: Tracker, line: str) -> float:
    found = [text for text in (await running.metrics()).splitlines() if text.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


@pytest.mark.any_broker
async def test_what_only_waits_is_left_alone_and_called_once(place: Place, postgres_url: str) -> None:
    goes_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        if call.body["message"] == "first":
            await goes_on.wait()
        return await echo(call)

    first, *behind, lost = [SessionEvents(conversation="busy") for _ in range(5)]
    paused = SessionEvents(conversation="c1", persona="p2")
    in_hand = [first.sent("first"), *(session.sent() for session in behind), paused.sent()]
    late = [session.sent() for session in several(4)]
    everyone = Counter([*(event.session_id for event in (*in_hand, *late)), lost.session_id])
    await place.know(*in_hand, lost.sent())
    await place.folded_up_to(ahead())
    async with webhook_server(answer) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await add_persona(postgres_url, "p2", webhook.url("p2"), paused=True)
        async with dispatcher(place.bootstrap, postgres_url, dispatcher_stop_seconds=0.1):
            await publish_events(place.bootstrap, in_hand)
            await eventually(lambda: webhook.sessions() == [first.session_id], "the first call hung")
            assert await place.look() is Look.DONE
        # Nobody is there any more, and more comes.
        await publish_events(place.bootstrap, late)
        await place.know(*late)
        assert await place.look() is Look.DONE
        assert await place.records() == everyone
        # By hand all of them are sent again: to no effect.
        assert await recover(place.engine, place.client) == everyone.total()
        goes_on.set()
        await place.rows.execute("UPDATE personas SET paused = false")
        async with dispatcher(place.bootstrap, postgres_url):
            await until_ended(place.bootstrap, everyone.total())
            await until_all_committed(place.bootstrap)
    webhook.counts[first.session_id] -= 1  # the call that was broken off when the first dispatcher stopped
    assert webhook.counts == everyone


@pytest.mark.any_broker
async def test_it_stands_still_while_results_are_not_folded(
    place: Place, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_module, "WAIT_SECONDS", 0.5)
    answered = [session.sent() for session in several(3)]
    await place.know(*answered)
    async with webhook_server() as webhook, dispatcher(place.bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(place.bootstrap, answered)
        await until_all_committed(place.bootstrap)
        assert await place.look() is Look.FOLD_BEHIND  # nothing was ever folded
        await place.folded_up_to(datetime.now(UTC))
        assert await place.look() is Look.FOLD_BEHIND
        assert set((await place.records()).values()) == {1}
        async with tracker(place.bootstrap, postgres_url):
            await until_value(postgres_url, COMPLETED, len(answered))
            monkeypatch.setattr(lost_module, "WAIT_SECONDS", 10)
            assert await place.look() is Look.DONE
        assert set((await place.records()).values()) == {1}


@pytest.mark.any_broker
async def test_two_looks_at_once_send_once(place: Place, postgres_url: str) -> None:
    lost = several(1200)
    await place.know(*(session.sent() for session in lost))
    await place.folded_up_to(ahead())
    other = build_engine(postgres_url)
    try:
        found = await asyncio.gather(place.look(), place.look(engine=other))
    finally:
        await other.dispose()
    assert Look.DONE in found
    # Nor does a later one: they wait in Kafka now.
    assert await place.look() is Look.DONE
    records = await place.records()
    assert records == Counter(session.session_id for session in lost)


@pytest.mark.any_broker
async def test_only_active_untouched_sessions_that_have_a_message_are_sent_again(place: Place) -> None:
    accepted, attempted, ended, cancelled, erased, untouched = sessions = several(6)
    await place.know(*(session.sent() for session in sessions))
    await place.know(
        accepted.attempted(outcome=AttemptOutcome.ACCEPTED, failure_kind=None, deadline_at=ahead()),
        attempted.attempted(),
        ended.succeeded(),
        cancelled.cancelled(),
    )
    await place.know(SessionEvents(conversation="told early").attempted())
    await place.rows.execute('UPDATE session_events SET body = NULL WHERE "sessionId" = $1', erased.session_id)
    await place.rows.execute('UPDATE messages SET content = NULL WHERE "chatSessionId" = $1', erased.session_id)
    await place.folded_up_to(ahead())
    assert await place.look(every=timedelta(minutes=1)) is Look.DONE
    assert await place.records() == Counter()
    assert await place.look() is Look.DONE
    assert await place.records() == Counter([untouched.session_id])


async def test_a_long_backlog_is_not_read_through(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "MOST_RECORDS", 10)
    waiting, lost = [session.sent() for session in several(11)], SessionEvents().sent()
    await publish_events(place.bootstrap, waiting)
    await place.know(*waiting, lost)
    await place.folded_up_to(ahead())
    with pytest.raises(BacklogTooLong, match="More than 10"):
        await place.look()
    assert lost.session_id not in await place.records()


@pytest.mark.skipif(not on_apache_kafka(), reason="The embedded broker deletes no records.")
async def test_what_kafka_deleted_behind_the_dispatchers_is_found(place: Place, postgres_url: str) -> None:
    before, gone = [s.sent() for s in several(5)], [s.sent() for s in several(5)]
    async with webhook_server() as webhook, tracker(place.bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        async with dispatcher(place.bootstrap, postgres_url):
            await publish_events(place.bootstrap, before)
            await until_value(postgres_url, COMPLETED, 5)
        await publish_events(place.bootstrap, gone)
        await until_value(postgres_url, SESSIONS, 10)
        assert await place.look() is Look.DONE
        assert set((await place.records()).values()) == {1}
        await delete_all(place.bootstrap)
        assert await place.look() is Look.DONE
        async with dispatcher(place.bootstrap, postgres_url):
            await until_value(postgres_url, COMPLETED, 10)
            assert await place.look() is Look.DONE
    assert webhook.counts == Counter(event.session_id for event in (*before, *gone))


async def delete_all(bootstrap: str) -> None:
    """Have the broker delete every message that it holds now."""
    async with admin_of(bootstrap) as client:
        await client.delete_records({place: RecordsToDelete(before_offset=-1) for place in MESSAGE_PARTITIONS})
