"""Rollups are compared with their sessions, repaired, merged and removed, while folds go on."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.database.engine import build_engine
from services.database.partitions import first_id, id_at, month_of, next_month
from services.database.rollups import KEPT, MERGED_SHARD, Granularity, bucket_of
from services.session_tracker import upkeep
from services.session_tracker.drift import DRIFT, parameters
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.session_tracker.upkeep import Checked, Pace, remove_old, run
from tests.integration.tracker_process import connected, until
from tests.patience import PATIENT_SECONDS
from tests.recount import assert_rollups_exact, counted
from tests.sample_events import SessionEvents

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
EARLIER = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Kept:
    """A database with sessions, and the clock of its upkeep."""

    engine: AsyncEngine
    rows: asyncpg.Connection
    database_url: str
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def fold(self, events: Sequence[TrackedEvent], partition: int = 0) -> None:
        arrivals = [Arrival(e, e.occurred_at, partition, n) for n, e in enumerate(events)]
        await SessionStore(self.engine).fold(arrivals, {})

    async def look(self) -> int:
        """Look at the next hours; return the drift found."""
        self.now += timedelta(seconds=upkeep.RUN_SECONDS)
        return (await run(self.engine, self.now)).drift

    async def look_at(self, hours_ago: float, count: int) -> int:
        """Look at so many hours, from the one on in which it was so long ago; return the drift found."""
        start = bucket_of(NOW - timedelta(hours=hours_ago), Granularity.HOUR)
        await self.rows.execute("DELETE FROM rollup_checks")
        await self.rows.execute("INSERT INTO rollup_checks VALUES ($1, $2, $3)", Pace.ALL, start + HOUR, EARLIER)
        return sum([await self.look() for _ in range(count)])


@pytest.fixture
async def kept(postgres_url: str) -> AsyncIterator[Kept]:
    engine = build_engine(postgres_url, pool_size=6)
    async with connected(postgres_url) as rows:
        yield Kept(engine, rows, postgres_url)
    await engine.dispose()


def aged(number: int, *, hours: float) -> SessionEvents:
    """A session that began so long ago."""
    session_id = UUID(int=id_at(NOW - timedelta(hours=hours)).int | new_id().int & (1 << 80) - 1)
    return SessionEvents(
        session_id=session_id, conversation=f"c{number}", persona=f"p{number % 12}", user=f"u{number % 5}"
    )


async def folded(kept: Kept, ages: Sequence[float], chance: random.Random) -> list[SessionEvents]:
    """Sessions of these ages, each with some ending or none."""
    sessions = [aged(number, hours=hours) for number, hours in enumerate(ages)]
    for month in {month_of(session.session_id) for session in sessions}:
        await Months(kept.engine).ensure(id_at(month))
    for partition in range(4):
        events: list[TrackedEvent] = []
        for session in sessions[partition::4]:
            end = chance.choice([session.succeeded, session.failed, session.cancelled, None])
            events += [session.sent(), *([end()] if end else [])]
        await kept.fold(events, partition)
    return sessions


async def dropped(kept: Kept, month: datetime) -> None:
    """Drop a month as retention does."""
    await kept.rows.execute("INSERT INTO dropped_months (month) VALUES ($1)", month)
    for table, column in (("messages", "chatSessionId"), ("chat_sessions", "sessionId")):
        await kept.rows.execute(
            f'DELETE FROM {table} WHERE "{column}" >= $1 AND "{column}" < $2',
            first_id(month),
            first_id(next_month(month)),
        )


DAMAGE = """
    UPDATE session_rollups SET active = active + 7, "responseMsSum" = 0 WHERE scope LIKE 'persona:%';
    UPDATE session_rollups SET "failureKinds" = '{tls}', "failureCounts" = '{3}', "responseBuckets" = '{}',
        "responseCounts" = '{}' WHERE shard < 2;
    DELETE FROM session_rollups WHERE scope = 'user:u1';
    INSERT INTO session_rollups SELECT granularity, bucket, 'user:nobody', 1, 1, 2, 3, 4, 5, 6, '{tls}', '{1}', '{5}',
        '{1}' FROM session_rollups WHERE scope = 'global' AND granularity <> 'minute' GROUP BY 1, 2
"""


async def test_wrong_rollups_are_found_and_repaired(kept: Kept) -> None:
    await folded(kept, [hours / 10 for hours in range(60)], random.Random(1))
    right = await counted(kept.rows)
    # Hours that were right when they were looked at are wrong when their day is.
    assert await kept.look_at(0, count=3) == 0
    await kept.rows.execute(DAMAGE)
    wrong = await counted(kept.rows)
    drift = sum([await kept.look() for _ in range(50)])
    assert drift == sum(abs(right.get(cell, 0) - wrong.get(cell, 0)) for cell in {*right, *wrong})
    assert await counted(kept.rows) == right
    await assert_rollups_exact(kept.database_url)
    audit = await kept.rows.fetch("SELECT actor, outcome FROM audit_log WHERE action = 'rollups.repair'")
    assert {tuple(row) for row in audit} == {("session-tracker", "repaired")}
    assert await kept.look_at(0, count=5) == 0


async def test_a_week_is_looked_at_with_each_of_its_days(kept: Kept) -> None:
    monday = bucket_of(NOW - timedelta(days=14), Granularity.WEEK)
    wednesday = (NOW - monday) / HOUR - 48
    await folded(kept, [wednesday - 1, wednesday + 47], random.Random(9))
    right = await counted(kept.rows)
    await kept.rows.execute("UPDATE session_rollups SET active = active + 7 WHERE granularity IN ('day', 'week')")
    wrong = await counted(kept.rows)
    # Monday's counts are repaired before the week is made of them.
    assert await kept.look_at(wednesday - 0.5, count=1) == sum(wrong.values()) - sum(right.values())
    assert await counted(kept.rows) == right


async def test_a_week_is_held_against_the_days_of_a_dropped_month_too(kept: Kept) -> None:
    month = next_month(month_of(id_at(NOW - timedelta(days=40))))
    began = (NOW - month) / HOUR
    await folded(kept, [began + 1, began - 1], random.Random(10))
    right = await counted(kept.rows)
    await dropped(kept, month_of(id_at(month - HOUR)))
    week = bucket_of(month, Granularity.WEEK)
    await kept.rows.execute("UPDATE session_rollups SET active = active + 7 WHERE bucket = $1", week)
    assert await kept.look_at(began - 0.5, count=1) > 0
    assert await counted(kept.rows) == right


async def test_folds_that_go_on_are_no_drift(kept: Kept) -> None:
    chance = random.Random(2)
    sessions = [aged(number, hours=chance.choice([0.001, 49])) for number in range(150)]
    for month in {month_of(session.session_id) for session in sessions}:
        await Months(kept.engine).ensure(id_at(month))
    await kept.fold([session.sent() for session in sessions])
    endings = [chance.choice([session.succeeded, session.failed])() for session in sessions]

    async def folding(partition: int) -> None:
        for event in endings[partition::3]:
            await kept.fold([event], partition)

    folds = [asyncio.create_task(folding(partition)) for partition in range(3)]
    drift = rounds = 0
    while not all(fold.done() for fold in folds):
        drift += await kept.look_at(rounds % 2 * 49, count=1)
        rounds += 1
    await asyncio.gather(*folds)
    assert (drift, rounds > 3) == (0, True)
    await assert_rollups_exact(kept.database_url)


async def test_the_shards_of_the_past_are_merged_and_stay_exact(kept: Kept) -> None:
    # So long ago that their week is over, whatever day is today.
    sessions = await folded(kept, [hours / 10 for hours in range(1920, 1940)], random.Random(3))
    before = await counted(kept.rows)
    assert await kept.look_at(192, count=50) == 0
    assert await counted(kept.rows) == before
    shards = await kept.rows.fetch(
        "SELECT DISTINCT granularity, shard FROM session_rollups WHERE scope = 'global' AND granularity <> 'minute'"
    )
    assert {tuple(row) for row in shards} == {(name, MERGED_SHARD) for name in ("hour", "day", "week")}
    # A late ending makes a shard anew, until it is merged as well.
    await kept.fold([session.succeeded() for session in sessions], 5)
    await assert_rollups_exact(kept.database_url)
    assert await kept.look_at(192, count=50) == 0
    await assert_rollups_exact(kept.database_url)


async def test_folds_beside_merging_and_removing_meet_no_deadlock(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold moves many rows of an hour that is merged, and of one whose minutes are removed."""
    monkeypatch.setitem(KEPT, Granularity.MINUTE, 7 * HOUR)  # type: ignore[misc]
    begun = (NOW - bucket_of(NOW, Granularity.HOUR)) / HOUR
    await Months(kept.engine).ensure(id_at(NOW - 10 * HOUR))

    async def folding(partition: int) -> None:
        chance = random.Random(partition)
        for _ in range(60):
            ages = [begun + chance.choice([4, 9]) - chance.random() / 30 for _ in range(25)]
            sessions = [aged(chance.randrange(1000), hours=hours) for hours in ages]
            await kept.fold([session.sent() for session in sessions], partition)
            await kept.fold([session.succeeded() for session in sessions], partition)

    async def removing() -> None:
        for _ in range(3):
            await remove_old(kept.engine, kept.now)

    folds = [asyncio.create_task(folding(partition)) for partition in (0, 0, 1)]
    while not all(fold.done() for fold in folds):
        await asyncio.gather(kept.look_at(begun + 4, count=1), removing())
    await asyncio.gather(*folds)
    deadlocks = "SELECT pg_stat_force_next_flush(), deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert (await kept.rows.fetchrow(deadlocks))["deadlocks"] == 0


async def test_merging_waits_for_no_fold(kept: Kept) -> None:
    await folded(kept, [4.0] * 8, random.Random(8))
    async with connected(kept.database_url) as other, other.transaction():
        await other.execute("SELECT 1 FROM session_rollups WHERE shard = 1 FOR UPDATE")
        assert await asyncio.wait_for(kept.look_at(4, count=1), PATIENT_SECONDS) == 0
        hours = "granularity = 'hour' AND scope = 'global'"
        shards = await kept.rows.fetch(f"SELECT shard FROM session_rollups WHERE {hours}")
        assert {row["shard"] for row in shards} == {MERGED_SHARD, 1}
    await assert_rollups_exact(kept.database_url)


async def test_a_month_that_retention_dropped_has_no_drift(kept: Kept) -> None:
    await folded(kept, [1.0, 24 * 40.0], random.Random(4))
    dropped_at = NOW - timedelta(days=40)
    month = month_of(id_at(dropped_at))
    before = await counted(kept.rows)
    await dropped(kept, month)
    assert await kept.look_at(24 * 40, count=3) == 0
    hour = bucket_of(dropped_at, Granularity.HOUR)
    async with kept.engine.connect() as connection:
        for granularity in (Granularity.MINUTE, Granularity.HOUR):
            # Even if the month was dropped after a run had chosen the hour.
            found = await connection.execute(DRIFT[granularity], parameters(granularity, hour, hour + HOUR, 10))
            assert found.all() == []
    assert await counted(kept.rows) == before


async def test_old_minutes_and_hours_are_removed_and_the_rest_stays(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHUNK", 7)
    await folded(kept, [1, 46.5, 49.5, 24 * 60, 24 * 394, 24 * 398, 24 * 500], random.Random(5))
    before = await counted(kept.rows)
    assert await remove_old(kept.engine, kept.now) > 7
    after = await counted(kept.rows)
    assert after == {
        cell: count
        for cell, count in before.items()
        if cell[0] not in KEPT or cell[2] >= bucket_of(kept.now - KEPT[Granularity(cell[0])], Granularity(cell[0]))
    }
    assert {cell[0] for cell in before.keys() - after.keys()} == {"minute", "hour"}
    assert await remove_old(kept.engine, kept.now) == 0
    # What is removed is not missed.
    for hours_ago in (49.5, 24 * 60, 24 * 398):
        assert await kept.look_at(hours_ago, count=1) == 0


async def test_several_at_once_look_at_each_hour_once(kept: Kept) -> None:
    await folded(kept, [0.5], random.Random(6))
    found = await asyncio.gather(*(run(kept.engine, kept.now) for _ in range(4)))
    assert sum(checked.hours for checked in found) == len(Pace)
    assert await run(kept.engine, kept.now + timedelta(seconds=1)) == Checked()


async def test_without_sessions_there_is_nothing_to_look_at(kept: Kept) -> None:
    assert await run(kept.engine, kept.now) == Checked()


async def test_the_drift_is_told_as_a_metric(kept: Kept) -> None:
    this_hour = (NOW - datetime.now(UTC)) / HOUR
    await folded(kept, [this_hour], random.Random(7))
    await kept.rows.execute("UPDATE session_rollups SET active = active + 2 WHERE granularity = 'hour'")
    registry = CollectorRegistry()
    keeping = asyncio.create_task(upkeep.keep_rollups(kept.engine, TrackerMetrics(registry)))
    try:

        async def told() -> bool:
            return bool(registry.get_sample_value("chat_rollup_checks_total"))

        await until(told, "the rollups were looked at")
        drift = registry.get_sample_value("chat_rollup_drift")
    finally:
        keeping.cancel()
    assert drift is not None
    assert drift >= 2 * 2  # global and persona
    assert (await kept.rows.fetchval("SELECT count(*) FROM audit_log")) >= 1
