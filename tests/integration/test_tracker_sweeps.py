"""Sweeps against PostgreSQL and a broker: what times out, what does not, and what stands in their way."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts import SessionStatus
from services.contracts.events import TimeoutSweep, TrackedEvent
from services.contracts.ids import new_id
from services.contracts.topics import SWEEPS_GROUP
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.runtime.shutdown import Shutdown
from services.session_tracker import sweeps as sweeps_module
from services.session_tracker.endings import CHUNK, START
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.sweeps import FoldBehind, Sweeps
from services.session_tracker.timeouts import Timeouts
from services.session_tracker.untold import UntoldChunks
from tests.integration.kafka_log import producer
from tests.integration.tracker_process import TRACKER_PARTITIONS, changes, connected
from tests.patience import PATIENT_SECONDS
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents, sweep

pytestmark = pytest.mark.any_broker


@dataclass(frozen=True, slots=True)
class Swept:
    """Everything that a sweep works on."""

    store: SessionStore
    sweeps: Sweeps
    untold: UntoldChunks
    rows: asyncpg.Connection
    engine: AsyncEngine
    bootstrap: str
    database_url: str

    async def fold(self, events: Sequence[TrackedEvent]) -> None:
        await self.store.fold([Arrival(e, e.occurred_at, 3, n) for n, e in enumerate(events)], {})

    async def folded_up_to(self, moment: datetime) -> None:
        await self.store.move_progress({(p.topic, p.partition): moment for p in TRACKER_PARTITIONS})

    async def statuses(self) -> dict[UUID, str]:
        return {r["sessionId"]: r["status"] for r in await self.rows.fetch("SELECT * FROM chat_sessions")}

    async def told(self, one: TimeoutSweep) -> tuple[int, int, bool]:
        """What the sweep's row says: timed out, failed chunks, finished."""
        row = await self.rows.fetchrow('SELECT * FROM sweeps WHERE "sweepId" = $1', one.sweep_id)
        return row["timedOut"], row["failedChunks"], row["finishedAt"] is not None


@pytest.fixture
async def swept(bootstrap: str, postgres_url: str) -> AsyncIterator[Swept]:
    engine = build_engine(postgres_url, pool_size=8)
    async with producer(bootstrap) as client, connected(postgres_url) as rows:
        store, registry = SessionStore(engine), CollectorRegistry()
        letters = DeadLetters(client, SWEEPS_GROUP, ConsumerMetrics(registry))
        untold = UntoldChunks(store, client)
        work = Sweeps(
            SweepStore(engine, store), untold, letters, TrackerMetrics(registry), Shutdown(), timeout_hours=24
        )
        one = Swept(store, work, untold, rows, engine, bootstrap, postgres_url)
        months = Months(engine)
        await months.ensure(new_id())
        await months.ensure(aged(0).session_id)
        await one.folded_up_to(datetime.now(UTC) + timedelta(minutes=1))
        yield one
    await engine.dispose()


def aged(number: int, *, hours: float = 30, persona: str | None = None) -> SessionEvents:
    """A session whose events are so old."""
    moment = datetime.now(UTC) - timedelta(hours=hours)
    session_id = UUID(int=id_at(moment).int | new_id().int & (1 << 80) - 1)
    return SessionEvents(
        session_id=session_id, conversation=f"c{number % 7}", persona=persona or f"p{number % 3}", user=f"u{number % 5}"
    )


async def test_stale_sessions_time_out_and_others_do_not(swept: Swept) -> None:
    stale = [aged(n) for n in range(2 * CHUNK + 20)]
    fresh, ended, tried = aged(0, hours=23), aged(1), aged(2)
    await swept.fold([s.sent() for s in (*stale, fresh, ended, tried)])
    # Old by its id, and yet something happened a moment ago.
    await swept.fold([ended.succeeded(), tried.attempted(at=datetime.now(UTC))])
    one = sweep(max_age_hours=None)
    await swept.sweeps.run(one.model_copy(update={"max_age_hours": 24.0}))

    statuses = await swept.statuses()
    assert [statuses.pop(s.session_id) for s in (fresh, ended, tried)] == ["ACTIVE", "COMPLETED", "ACTIVE"]
    assert set(statuses.values()) == {"TIMEOUT"}
    assert await swept.told(one) == (len(stale), 0, True)
    row = await swept.rows.fetchrow('SELECT * FROM chat_sessions WHERE "sessionId" = $1', stale[0].session_id)
    assert (row["endedAt"], row["errorMessage"], row["responseMs"]) == (one.as_of, "No activity for 24 hours.", None)
    history = await swept.rows.fetch(
        """SELECT "sessionId" FROM session_events WHERE type = 'TimeoutSweep' AND NOT late"""
    )
    assert {r["sessionId"] for r in history} == statuses.keys()
    shards = await swept.rows.fetch("SELECT DISTINCT shard FROM session_rollups WHERE timeout > 0")
    assert [r["shard"] for r in shards] == [-1]
    told = {event.session_id: event for event in await changes(swept.bootstrap)}
    assert told.keys() == statuses.keys()
    assert {(e.status, e.previous_status) for e in told.values()} == {(SessionStatus.TIMEOUT, SessionStatus.ACTIVE)}
    await assert_rollups_exact(swept.database_url)

    await swept.fold([stale[0].succeeded("too late")])
    assert (await swept.statuses())[stale[0].session_id] == "TIMEOUT"
    assert await swept.rows.fetchval("SELECT count(*) FROM session_events WHERE late") == 1
    await assert_rollups_exact(swept.database_url)


async def test_a_persona_has_its_own_timeout_unless_the_sweep_names_one(swept: Swept) -> None:
    for persona, hours in (("quick", 2.0), ("slow", 72.0)):
        await swept.rows.execute(
            'INSERT INTO personas ("personaId", "webhookUrl", "sessionTimeoutHours") VALUES ($1, $2, $3)',
            persona,
            "http://n8n/webhook",
            hours,
        )
    ages = {"quick": (1, 3, 30), "slow": (30, 71, 73), "other": (3, 23, 30)}
    sessions = {(p, hours): aged(0, hours=hours, persona=p) for p, each in ages.items() for hours in each}
    months = Months(swept.engine)
    for one in sessions.values():
        await months.ensure(one.session_id)
    await swept.fold([one.sent() for one in sessions.values()])
    stale = {("quick", 3), ("quick", 30), ("slow", 73), ("other", 30)}
    dry = sweep(max_age_hours=None, dry_run=True)
    await swept.sweeps.run(dry)
    assert await swept.told(dry) == (4, 0, True)
    one = sweep(max_age_hours=None)
    await swept.sweeps.run(one)
    statuses = await swept.statuses()
    assert {key for key, s in sessions.items() if statuses[s.session_id] == "TIMEOUT"} == stale
    told = await swept.rows.fetch(
        """SELECT "personaId", body->>'maxAgeHours' AS hours, "errorMessage" FROM session_events
        JOIN chat_sessions USING ("sessionId") WHERE type = 'TimeoutSweep'"""
    )
    assert {tuple(row) for row in told} == {
        ("quick", "2.0", "No activity for 2 hours."),
        ("slow", "72.0", "No activity for 72 hours."),
        ("other", "24.0", "No activity for 24 hours."),
    }
    await swept.sweeps.run(sweep(max_age_hours=70.0))
    statuses = await swept.statuses()
    assert {key for key, s in sessions.items() if statuses[s.session_id] == "TIMEOUT"} == stale | {("slow", 71)}
    await assert_rollups_exact(swept.database_url)


async def test_a_chunk_that_a_crash_left_untold_is_told_by_whoever_looks_next(swept: Swept) -> None:
    sessions = [aged(n) for n in range(3)]
    await swept.fold([s.sent() for s in sessions])
    one = sweep()
    store, timeouts = SweepStore(swept.engine, swept.store), Timeouts(24)
    await store.begin(one, timeouts)
    assert len((await store.time_out(one, timeouts, START, 3)).transitions) == 3
    assert await changes(swept.bootstrap) == []
    await swept.untold.tell_left_over()
    told = {event.session_id: (event.status, event.previous_status) for event in await changes(swept.bootstrap)}
    assert told.keys() == {s.session_id for s in sessions}
    assert set(told.values()) == {(SessionStatus.TIMEOUT, SessionStatus.ACTIVE)}
    await swept.untold.tell_left_over()
    assert len(await changes(swept.bootstrap)) == 3


async def test_a_dry_run_counts_and_changes_nothing(swept: Swept) -> None:
    await swept.fold([aged(n).sent() for n in range(30)])
    before = await swept.rows.fetch('SELECT * FROM chat_sessions ORDER BY "sessionId"')
    one = sweep(dry_run=True)
    await swept.sweeps.run(one)
    assert await swept.told(one) == (30, 0, True)
    assert await swept.rows.fetch('SELECT * FROM chat_sessions ORDER BY "sessionId"') == before
    assert await changes(swept.bootstrap) == []


async def test_the_same_sweep_runs_once(swept: Swept) -> None:
    await swept.fold([aged(1).sent()])
    one = sweep()
    await swept.sweeps.run(one)
    await swept.fold([aged(2).sent()])
    await swept.sweeps.run(one)
    assert sorted((await swept.statuses()).values()) == ["ACTIVE", "TIMEOUT"]
    assert await swept.told(one) == (1, 0, True)


async def test_a_session_that_postgres_refuses_is_skipped_and_the_rest_done(swept: Swept) -> None:
    stale = [aged(n) for n in range(CHUNK + 100)]
    await swept.fold([s.sent() for s in stale])
    poisoned = {stale[3].session_id, stale[CHUNK // 2].session_id, stale[-1].session_id}
    await swept.rows.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER poison BEFORE UPDATE ON chat_sessions FOR EACH ROW
        WHEN (NEW."sessionId" IN ({", ".join(f"'{one}'" for one in poisoned)})) EXECUTE FUNCTION refuse()
        """
    )
    one = sweep()
    await swept.sweeps.run(one)
    statuses = await swept.statuses()
    assert {session_id for session_id, status in statuses.items() if status == "ACTIVE"} == poisoned
    assert await swept.told(one) == (len(stale) - 3, 3, True)
    await assert_rollups_exact(swept.database_url)


async def test_a_sweep_waits_until_the_fold_has_passed_it(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps_module, "WAIT_SECONDS", 0.5)
    behind = TRACKER_PARTITIONS[13]
    await swept.rows.execute(
        'UPDATE fold_progress SET "foldedUpTo" = $1 WHERE topic = $2 AND partition = $3',
        datetime.now(UTC) - timedelta(seconds=1),
        behind.topic,
        behind.partition,
    )
    await swept.fold([aged(1).sent()])
    one = sweep()
    with pytest.raises(FoldBehind):
        await swept.sweeps.run(one)
    assert set((await swept.statuses()).values()) == {"ACTIVE"}
    assert await swept.told(one) == (0, 0, False)
    monkeypatch.undo()
    running = asyncio.create_task(swept.sweeps.run(one))
    await swept.store.move_progress({(behind.topic, behind.partition): one.as_of})
    async with asyncio.timeout(PATIENT_SECONDS):
        await running
    assert set((await swept.statuses()).values()) == {"TIMEOUT"}


@pytest.mark.parametrize("seed", range(5))
async def test_fold_and_sweeps_at_once_count_everything_once(
    swept: Swept, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(sweeps_module, "CHUNK", 25)
    sessions = [aged(n) for n in range(400)]
    await swept.fold([s.sent() for s in sessions])
    replies = [s.succeeded() if chance.random() < 0.5 else s.failed() for s in sessions if chance.random() < 0.8]
    tries = [s.attempted() for s in sessions if chance.random() < 0.5]
    opened_later = [aged(n) for n in range(100)]
    events = [*replies, *tries, *(s.sent() for s in opened_later)]
    chance.shuffle(events)

    async def folding() -> None:
        rest = events
        while rest:
            size = chance.randint(1, 60)
            await swept.fold(rest[:size])
            rest = rest[size:]

    async def sweeping() -> None:
        for _ in range(4):
            await swept.sweeps.run(sweep(as_of=datetime.now(UTC) - timedelta(seconds=1)))

    await asyncio.gather(folding(), sweeping(), sweeping())
    await swept.sweeps.run(sweep())
    assert set((await swept.statuses()).values()) == {"COMPLETED", "FAILED", "TIMEOUT"}
    ends = """SELECT count(*) FROM session_events WHERE type IN ('TimeoutSweep', 'WebhookSucceeded', 'WebhookFailed')"""
    assert await swept.rows.fetchval(f"{ends} AND NOT late") == len(sessions) + len(opened_later)
    await assert_rollups_exact(swept.database_url)
