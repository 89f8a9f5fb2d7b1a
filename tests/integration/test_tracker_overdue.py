"""Replies by callback that do not come: ended once, at their deadline, when everything before it is folded."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from services.contracts import AttemptOutcome, SessionStatus
from services.contracts.events import SessionChanged, TrackedEvent
from services.contracts.ids import derived_id, new_id
from services.database.engine import build_engine
from services.local.reaper import Reaper
from services.session_tracker import overdue as overdue_module
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.overdue import OverdueCallbacks
from services.session_tracker.overdue_store import OverdueStore
from services.session_tracker.store import SessionStore
from services.session_tracker.untold import UntoldChunks
from tests.integration.kafka_log import producer
from tests.integration.tracker_process import (
    TRACKER_PARTITIONS,
    changes,
    connected,
    publish_events,
    tracker,
    tracker_process,
    until,
    until_value,
)
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents

DEADLINE = datetime.now(UTC) + timedelta(hours=10)
KILLED_BEFORE_TELLING = """
import os, signal, sys
from services.session_tracker import app
from services.session_tracker.untold import UntoldChunks

async def die(self, chunk):
    if chunk.transitions:
        os.kill(os.getpid(), signal.SIGKILL)

UntoldChunks.tell = die
sys.exit(app.main())
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Sessions that wait for callbacks, and who ends them."""

    store: SessionStore
    callbacks: OverdueCallbacks
    rows: asyncpg.Connection
    bootstrap: str
    database_url: str

    async def fold(self, events: Sequence[TrackedEvent]) -> None:
        await self.store.fold([Arrival(e, e.occurred_at, 3, n) for n, e in enumerate(events)], {})

    async def folded_up_to(self, moment: datetime) -> None:
        await self.store.move_progress({(p.topic, p.partition): moment for p in TRACKER_PARTITIONS})

    async def sessions(self) -> dict[UUID, Any]:
        return {row["sessionId"]: row for row in await self.rows.fetch("SELECT * FROM chat_sessions")}


@pytest.fixture
async def waiting(bootstrap: str, postgres_url: str) -> AsyncIterator[Waiting]:
    engine = build_engine(postgres_url, pool_size=8)
    async with producer(bootstrap) as client, connected(postgres_url) as rows:
        store = SessionStore(engine)
        await Months(engine).ensure(new_id())
        work = OverdueCallbacks(OverdueStore(store), UntoldChunks(store, client), TrackerMetrics(CollectorRegistry()))
        yield Waiting(store, work, rows, bootstrap, postgres_url)
    await engine.dispose()


def accepted(session: SessionEvents, deadline_at: datetime = DEADLINE, attempt: int = 1) -> TrackedEvent:
    told = {"outcome": AttemptOutcome.ACCEPTED, "failure_kind": None, "status_code": 200, "deadline_at": deadline_at}
    return session.attempted(attempt, **told)


async def failures(bootstrap: str) -> list[SessionChanged]:
    return [event for event in await changes(bootstrap) if event.status is SessionStatus.FAILED]


def several(count: int) -> list[SessionEvents]:
    return [SessionEvents(conversation=f"c{n % 7}", persona=f"p{n % 3}", user=f"u{n % 5}") for n in range(count)]


@pytest.mark.any_broker
async def test_overdue_sessions_fail_at_their_deadline_and_others_go_on(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue_module, "CHUNK", 8)
    overdue, (later, answered, cancelled, retried, plain) = several(20), several(5)
    await waiting.fold([s.sent() for s in (*overdue, later, answered, cancelled, retried, plain)])
    await waiting.fold([accepted(s, attempt=2) for s in (*overdue, answered, cancelled)])
    await waiting.fold([accepted(later, DEADLINE + timedelta(milliseconds=1)), retried.attempted()])
    await waiting.fold([answered.succeeded(), cancelled.cancelled()])
    await waiting.folded_up_to(DEADLINE)
    await waiting.callbacks.end_overdue()

    found = await waiting.sessions()
    assert {found[s.session_id]["status"] for s in (later, retried, plain)} == {"ACTIVE"}
    assert [found[s.session_id]["status"] for s in (answered, cancelled)] == ["COMPLETED", "CANCELLED"]
    for session in overdue:
        row = found[session.session_id]
        assert (row["status"], row["failureKind"], row["attempts"]) == ("FAILED", "callback-timeout", 2)
        assert row["endedAt"] == row["lastActivityAt"] == DEADLINE
        assert "callbackSeconds" in row["errorMessage"]
    history = await waiting.rows.fetch("SELECT * FROM session_events WHERE type = 'WebhookFailed'")
    assert {row["eventId"] for row in history} == {derived_id(s.session_id, "callback-timeout") for s in overdue}
    assert {row["occurredAt"] for row in history} == {DEADLINE}
    told = await failures(waiting.bootstrap)
    assert {event.session_id for event in told} == {s.session_id for s in overdue}
    assert {event.previous_status for event in told} == {SessionStatus.ACTIVE}
    await assert_rollups_exact(waiting.database_url)

    await waiting.fold([overdue[0].succeeded("too late")])
    assert (await waiting.sessions())[overdue[0].session_id]["status"] == "FAILED"
    assert await waiting.rows.fetchval("SELECT count(*) FROM session_events WHERE late") == 1
    await waiting.callbacks.end_overdue()
    assert len(await failures(waiting.bootstrap)) == 20
    await assert_rollups_exact(waiting.database_url)


@pytest.mark.any_broker
async def test_nothing_ends_before_everything_up_to_its_deadline_is_folded(waiting: Waiting) -> None:
    [session] = several(1)
    await waiting.fold([session.sent(), accepted(session)])
    await waiting.callbacks.end_overdue()
    assert (await waiting.sessions())[session.session_id]["status"] == "ACTIVE", "no progress is known"
    await waiting.folded_up_to(DEADLINE)
    behind = TRACKER_PARTITIONS[13]
    await waiting.rows.execute(
        'UPDATE fold_progress SET "foldedUpTo" = $1 WHERE topic = $2 AND partition = $3',
        DEADLINE - timedelta(milliseconds=1),
        behind.topic,
        behind.partition,
    )
    await waiting.callbacks.end_overdue()
    assert (await waiting.sessions())[session.session_id]["status"] == "ACTIVE", "a reply may still be folded"
    await waiting.folded_up_to(DEADLINE)
    await waiting.callbacks.end_overdue()
    assert (await waiting.sessions())[session.session_id]["status"] == "FAILED"


@pytest.mark.any_broker
async def test_a_session_that_postgres_refuses_keeps_no_other_waiting(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue_module, "CHUNK", 8)
    sessions = several(12)
    await waiting.fold([s.sent() for s in sessions])
    await waiting.fold([accepted(s) for s in sessions])
    await waiting.folded_up_to(DEADLINE)
    poisoned = sessions[5].session_id
    await waiting.rows.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER poison BEFORE UPDATE ON chat_sessions FOR EACH ROW
        WHEN (NEW."sessionId" = '{poisoned}') EXECUTE FUNCTION refuse()
        """
    )
    await waiting.callbacks.end_overdue()
    found = await waiting.sessions()
    assert {session_id for session_id, row in found.items() if row["status"] == "ACTIVE"} == {poisoned}
    await assert_rollups_exact(waiting.database_url)


@pytest.mark.any_broker
async def test_replies_two_trackers_and_the_fold_at_once_end_each_session_once(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue_module, "CHUNK", 10)
    sessions = several(150)
    await waiting.fold([s.sent() for s in sessions])
    await waiting.fold([accepted(s) for s in sessions])
    await waiting.folded_up_to(DEADLINE)
    replies = [s.succeeded() for s in sessions[::2]]

    async def folding() -> None:
        for first in range(0, len(replies), 15):
            await waiting.fold(replies[first : first + 15])

    await asyncio.gather(folding(), waiting.callbacks.end_overdue(), waiting.callbacks.end_overdue())
    await waiting.callbacks.end_overdue()
    statuses = {row["status"] for row in (await waiting.sessions()).values()}
    assert statuses <= {"COMPLETED", "FAILED"}
    ends = "SELECT count(*) FROM session_events WHERE type IN ('WebhookSucceeded', 'WebhookFailed') AND NOT late"
    assert await waiting.rows.fetchval(ends) == len(sessions)
    await assert_rollups_exact(waiting.database_url)


async def test_a_tracker_killed_before_it_told_an_ending_hides_nothing(
    bootstrap: str, postgres_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    overdue = several(3)
    log = tmp_path / "tracker.log"
    with tracker_process(bootstrap, postgres_url, log, reaper, program=("-c", KILLED_BEFORE_TELLING)) as running:
        await publish_events(bootstrap, [session.sent() for session in overdue])
        await publish_events(bootstrap, [accepted(session, datetime.now(UTC)) for session in overdue])
        assert await running.exit_code() == -signal.SIGKILL, running.child.last_lines(30)
    async with connected(postgres_url) as rows:
        ended = {
            row[0] for row in await rows.fetch("""SELECT "sessionId" FROM chat_sessions WHERE status = 'FAILED'""")
        }
    assert ended
    assert await failures(bootstrap) == []
    async with tracker(bootstrap, postgres_url):
        await until_value(postgres_url, "SELECT count(*) FROM untold_chunks", 0)
    told = await failures(bootstrap)
    assert ended <= {event.session_id for event in told}
    assert {event.previous_status for event in told} == {SessionStatus.ACTIVE}


async def test_a_running_tracker_ends_them_by_itself(bootstrap: str, postgres_url: str) -> None:
    overdue, answered = several(2)
    async with tracker(bootstrap, postgres_url) as running:
        await running.until_ready()
        deadline = datetime.now(UTC) + timedelta(seconds=1)
        await publish_events(bootstrap, [overdue.sent(), answered.sent()])
        await publish_events(bootstrap, [accepted(overdue, deadline), accepted(answered, deadline)])
        await publish_events(bootstrap, [answered.succeeded()])
        status = f"""SELECT status FROM chat_sessions WHERE "sessionId" = '{overdue.session_id}'"""
        await until_value(postgres_url, status, "FAILED")

        async def counted() -> bool:
            return 'chat_session_failures_total{kind="callback-timeout",persona="p0"} 1.0' in await running.metrics()

        await until(counted, "its end was counted")
    async with connected(postgres_url) as rows:
        ended_at = f"""SELECT "endedAt" FROM chat_sessions WHERE "sessionId" = '{overdue.session_id}'"""
        assert await rows.fetchval(ended_at) == deadline
        assert await rows.fetchval(status.replace(str(overdue.session_id), str(answered.session_id))) == "COMPLETED"
