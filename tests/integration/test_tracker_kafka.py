"""The whole tracker between a real broker and a real PostgreSQL: what it writes, tells, commits and survives."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from services.contracts import Event, SessionStatus
from services.contracts.events import TrackedEvent
from services.contracts.ids import derived_id
from services.contracts.topics import GROUP_TOPICS, TRACKER_GROUP
from services.database.migrate import migrate
from services.local.broker import start_broker
from services.local.postgres import start_postgres
from services.local.processes import free_port
from services.local.reaper import Reaper
from services.runtime import consumer
from services.runtime.shutdown import Shutdown
from services.runtime.topics import create_topics
from services.session_tracker import parts
from tests.engine import on_apache_kafka
from tests.integration.event_flow import flow_of_events
from tests.integration.kafka_log import settings_for
from tests.integration.tracker_process import (
    SESSION_TIMEOUT_MS,
    TRACKER_PARTITIONS,
    changes,
    connected,
    offsets,
    publish_events,
    tracker,
    tracker_process,
    until,
    until_value,
)
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents

STATUSES = "SELECT jsonb_object_agg(status, n) FROM (SELECT status, count(*) n FROM chat_sessions GROUP BY 1) s"


def conversations(count: int) -> list[tuple[TrackedEvent, TrackedEvent]]:
    """Sessions of as many conversations, so of many partitions: each its message and its reply."""
    each = [SessionEvents(conversation=f"c{n}", user=f"u{n % 3}") for n in range(count)]
    return [(events.sent(f"message {n}"), events.succeeded(f"reply {n}")) for n, events in enumerate(each)]


def flat(pairs: Sequence[Sequence[TrackedEvent]]) -> list[Event]:
    return [event for pair in pairs for event in pair]


async def committed_count(bootstrap: str) -> int:
    return sum((await offsets(bootstrap, TRACKER_GROUP, TRACKER_PARTITIONS)).values())


async def progress(database_url: str) -> dict[tuple[str, int], datetime]:
    async with connected(database_url) as rows:
        return {(r["topic"], r["partition"]): r["foldedUpTo"] for r in await rows.fetch("SELECT * FROM fold_progress")}


async def test_events_become_rows_and_are_told_and_committed(bootstrap: str, postgres_url: str) -> None:
    pairs = conversations(40)
    async with tracker(bootstrap, postgres_url) as running:
        await publish_events(bootstrap, [sent for sent, _ in pairs])
        await until_value(postgres_url, "SELECT count(*) FROM chat_sessions WHERE status = 'ACTIVE'", 40)
        await publish_events(bootstrap, [reply for _, reply in pairs])
        await until_value(postgres_url, "SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'", 40)

        async def committed() -> bool:
            return await committed_count(bootstrap) == 80

        await until(committed, "every offset was committed while the tracker ran")
        exposed = await running.metrics()
    assert 'chat_events_folded_total{outcome="applied"} 80.0' in exposed
    assert 'chat_sessions_ended_total{persona="p1",status="COMPLETED"} 40.0' in exposed
    assert "chat_fold_seconds_count" in exposed
    told = {event.session_id: event for event in await changes(bootstrap)}
    assert {session_id: (e.status, e.version) for session_id, e in told.items()} == {
        sent.session_id: (SessionStatus.COMPLETED, 2) for sent, _ in pairs
    }
    assert all(e.event_id == derived_id(e.session_id, e.version) for e in told.values())
    async with connected(postgres_url) as rows:
        contents = await rows.fetch("SELECT role, content FROM messages")
    expected = {("user", f"message {n}") for n in range(40)} | {("persona", f"reply {n}") for n in range(40)}
    assert {tuple(row) for row in contents} == expected
    await assert_rollups_exact(postgres_url)


async def test_a_replayed_batch_is_told_again_and_changes_nothing(bootstrap: str, postgres_url: str) -> None:
    pairs = conversations(10)
    async with tracker(bootstrap, postgres_url):
        await publish_events(bootstrap, flat(pairs))
        await until_value(postgres_url, "SELECT count(*) FROM session_events", 20)
        async with connected(postgres_url) as rows:
            before = await rows.fetch('SELECT * FROM chat_sessions ORDER BY "sessionId"')
        before_told = Counter(event.session_id for event in await changes(bootstrap))
        await publish_events(bootstrap, flat(pairs))

        async def told_again() -> bool:
            told = Counter(event.session_id for event in await changes(bootstrap))
            return all(told[sent.session_id] > before_told[sent.session_id] for sent, _ in pairs)

        await until(told_again, "every session was told again")
        async with connected(postgres_url) as rows:
            assert await rows.fetch('SELECT * FROM chat_sessions ORDER BY "sessionId"') == before
            assert await rows.fetchval("SELECT count(*) FROM session_events") == 20
    await assert_rollups_exact(postgres_url)


async def test_it_is_ready_only_once_it_has_joined(bootstrap: str, postgres_url: str) -> None:
    async with slow_to_leave(bootstrap) as leave, tracker(bootstrap, postgres_url) as running:

        async def joining() -> bool:
            status, problems = await running.readiness()
            return status == 503 and "fold" in problems

        await until(joining, "it answered that it had not joined its group")
        leave.set()
        await running.until_ready()


@asynccontextmanager
async def slow_to_leave(bootstrap: str) -> AsyncIterator[asyncio.Event]:
    """A member of the tracker's group that keeps a rebalance waiting until the event is set."""
    leave, has_joined = asyncio.Event(), asyncio.Event()

    class Clinging(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
            has_joined.set()

        async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
            if has_joined.is_set():
                await leave.wait()

    member = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=TRACKER_GROUP,
        enable_auto_commit=False,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=SESSION_TIMEOUT_MS // 4,
        partition_assignment_strategy=[RangePartitionAssignor],
    )
    member.subscribe([topic.name for topic in GROUP_TOPICS[TRACKER_GROUP]], listener=Clinging())
    await member.start()
    try:
        await has_joined.wait()
        yield leave
    finally:
        leave.set()
        await member.stop()


@pytest.mark.skipif(on_apache_kafka(), reason="It starts an embedded broker, whatever the others run on.")
async def test_it_may_start_before_kafka_does_and_stop_after_it(
    postgres_url: str, tmp_path: Path, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "LEAVE_SECONDS", 1.0)
    monkeypatch.setattr(parts, "PRODUCER_TIMEOUT_MS", 2000)  # a batch may still be being told when Kafka goes
    port, shutdown = free_port(), Shutdown()
    async with tracker(f"127.0.0.1:{port}", postgres_url, shutdown=shutdown) as running:

        async def waiting() -> bool:
            return (await running.readiness())[0] == 503

        await until(waiting, "it answered that it was not ready")
        broker = start_broker(port, tmp_path / "broker.log", reaper)
        try:
            await create_topics(settings_for(broker.bootstrap))
            await running.until_ready()
            await publish_events(broker.bootstrap, flat(conversations(10)))
            await until_value(postgres_url, "SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'", 10)
        finally:
            broker.process.stop(0)
    assert shutdown.exit_code == 0


async def test_progress_moves_with_events_and_with_time(bootstrap: str, postgres_url: str) -> None:
    async with tracker(bootstrap, postgres_url):
        await until_value(postgres_url, "SELECT count(*) FROM fold_progress", 24)
        first = await progress(postgres_url)

        async def all_moved() -> bool:
            now = await progress(postgres_url)
            return all(now[partition] > moment for partition, moment in first.items())

        await until(all_moved, "all 24 partitions moved though nothing was published", seconds=4)
        ((sent, _),) = conversations(1)
        await publish_events(bootstrap, [sent])

        async def past_the_event() -> bool:
            return min((await progress(postgres_url)).values()) > sent.occurred_at

        await until(past_the_event, "every partition was folded past the event's time", seconds=6)


async def test_postgres_killed_while_events_flow_loses_nothing(
    bootstrap: str, session_directory: Path, reaper: Reaper
) -> None:
    # A server of its own: killing the shared one would disturb others.
    directory = session_directory / "killed"
    directory.mkdir()
    server = start_postgres(directory, directory / "postgres.log", reaper)
    try:
        await migrate(server.url())
        shutdown = Shutdown()
        async with flow_of_events(bootstrap) as flow, tracker(bootstrap, server.url(), shutdown=shutdown) as running:
            await until_value(server.url(), "SELECT count(*) > 100 FROM chat_sessions", value=True)
            server.process.stop(0, signal.SIGKILL)

            async def not_ready() -> bool:
                status, problems = await running.readiness()
                return status == 503 and "PostgreSQL is not available" in problems.get("fold", "")

            await until(not_ready, "readiness said that PostgreSQL was away")
            committed, seen = await committed_count(bootstrap), flow.sessions

            async def flowed_on() -> bool:
                return flow.sessions > seen + 100

            await until(flowed_on, "events flowed on")
            assert not shutdown.requested
            server = start_postgres(directory, directory / "postgres.log", reaper)
            await running.until_ready()
            await flow.stop()
            done = f"SELECT count(*) = {flow.sessions} FROM chat_sessions WHERE status = 'COMPLETED'"
            await until_value(server.url(), done, value=True)

            async def all_committed() -> bool:
                # What PostgreSQL had, and could not say when it was killed, is read once more.
                return await committed_count(bootstrap) == 2 * flow.sessions > committed

            await until(all_committed, "everything was committed")
            assert not shutdown.requested
        await assert_rollups_exact(server.url())
    finally:
        server.stop()


async def test_sigterm_commits_and_ends_well(bootstrap: str, postgres_url: str, tmp_path: Path, reaper: Reaper) -> None:
    with tracker_process(bootstrap, postgres_url, tmp_path / "tracker.log", reaper) as running:
        await running.until_ready()
        await publish_events(bootstrap, flat(conversations(50)))
        # Completed they may be before: a reply can be read before its message.
        await until_value(postgres_url, "SELECT count(*) FROM session_events", 100)
        running.child.ask_to_stop()
        assert await running.exit_code() == 0, running.child.last_lines(40)
    assert await committed_count(bootstrap) == 100
    assert "Traceback" not in (tmp_path / "tracker.log").read_text()


STUMBLING = """
import sys
from services.session_tracker import app
from services.session_tracker.store import SessionStore

fold = SessionStore.fold

async def stumble(self, arrivals, progress):
    if any(getattr(arrival.event, "message", None) == "stumble" for arrival in arrivals):
        raise ValueError("a bug")
    return await fold(self, arrivals, progress)

SessionStore.fold = stumble
sys.exit(app.main())
"""


async def test_a_bug_ends_the_process_and_nothing_is_committed_past_it(
    bootstrap: str, postgres_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    log = tmp_path / "tracker.log"
    with tracker_process(bootstrap, postgres_url, log, reaper, program=("-c", STUMBLING)) as running:
        await running.until_ready()
        events = SessionEvents(conversation="c")
        await publish_events(bootstrap, [events.sent("fine")])

        async def committed() -> bool:
            return await committed_count(bootstrap) == 1

        await until(committed, "the first event was committed")
        await publish_events(bootstrap, [SessionEvents(conversation="c").sent("stumble"), events.succeeded()])
        assert await running.exit_code() == 1
    assert "a bug" in log.read_text()
    assert await committed_count(bootstrap) == 1
    with tracker_process(bootstrap, postgres_url, log, reaper):
        await until_value(postgres_url, STATUSES, '{"ACTIVE": 1, "COMPLETED": 1}')
