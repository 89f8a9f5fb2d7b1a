"""Whatever happens to events on their way, the rollups equal a recount of the sessions, at every granularity."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.contracts.session import FailureKind
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.database.rollups import Granularity
from services.session_tracker.endings import START
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.timeouts import Timeouts
from services.session_tracker.upkeep import run
from tests.integration.tracker_process import connected
from tests.recount import counted, recounted
from tests.sample_events import SessionEvents, in_another_name, sweep

ORIGIN = datetime(2026, 5, 31, 22, 0, tzinfo=UTC)
"""Sessions begin within the four hours after it: in two days, two weeks and two months."""
ENDINGS = ("succeeded", "failed", "cancelled", "attempted")

sessions = st.tuples(
    st.integers(0, 4 * 60 - 1),  # the minute in which it begins
    st.integers(0, 1),  # persona
    st.integers(0, 2),  # user
    st.lists(st.tuples(st.sampled_from(ENDINGS), st.integers(0, 10_000_000), st.sampled_from(FailureKind)), max_size=3),
    st.booleans(),  # whether somebody else tells of it as well
)
scripts = st.lists(sessions, min_size=1, max_size=12)

steps = st.tuples(st.integers(1, 9), st.sampled_from(["commits", "crashes before", "crashes after"]), st.integers(0, 7))
"""What a tracker does with its next batch: its size, whether the tracker lives through it, and the partition."""
trackers = st.lists(st.lists(steps, min_size=1, max_size=8), min_size=2, max_size=2)


class Crash(Exception):
    """The tracker is gone before its transaction is committed."""


class CrashingStore(SessionStore):
    """Does all that the store does, and never commits."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with super().transaction() as driver:
            yield driver
            raise Crash


Script = tuple[int, int, int, list[tuple[str, int, FailureKind]], bool]


def events_of(number: int, script: Script) -> list[TrackedEvent]:
    minute, persona, user, endings, foreign = script
    began = ORIGIN + timedelta(minutes=minute)
    session_id = UUID(int=id_at(began).int | new_id().int & (1 << 80) - 1)
    one = SessionEvents(session_id=session_id, conversation=f"c{number}", persona=f"p{persona}", user=f"u{user}")
    told: list[Any] = [one.sent()]
    for kind, after_ms, failure in endings:
        at = began + timedelta(milliseconds=after_ms)
        told.append(one.failed(failure, at=at) if kind == "failed" else getattr(one, kind)(at=at))
    return [*told, in_another_name(one.succeeded(), user_id="stranger")] if foreign else told


async def track(engine: AsyncEngine, events: Sequence[TrackedEvent], batches: Sequence[tuple[int, str, int]]) -> None:
    """Fold all events in batches; a batch with which the tracker crashed comes again."""
    rest, step = list(events), 0
    while rest:
        size, fate, partition = batches[step] if step < len(batches) else (9, "commits", 0)
        batch = [Arrival(event, event.occurred_at, partition, n) for n, event in enumerate(rest[:size])]
        if fate == "crashes before":
            with pytest.raises(Crash):
                await CrashingStore(engine).fold(batch, {})
        else:
            await SessionStore(engine).fold(batch, {})
        if fate == "commits":
            rest = rest[size:]
        step += 1


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(postgres_url, pool_size=8)
    for moment in (ORIGIN, ORIGIN + timedelta(hours=3)):
        await Months(engine).ensure(id_at(moment))
    yield engine
    await engine.dispose()


# The examples share a database: each adds to what the ones before have left, and all of it must be right.
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scripts=scripts, trackers=trackers, order=st.randoms(use_true_random=False), swept=st.booleans())
async def test_rollups_equal_a_recount(engine, postgres_url, scripts, trackers, order, swept) -> None:
    events = [event for number, script in enumerate(scripts) for event in events_of(number, script)]
    store = SessionStore(engine)

    async def sweeping() -> None:
        if swept:
            await SweepStore(engine, store).time_out(sweep(), Timeouts(24), START, 5)

    mine = [order.sample(events + events[::3], len(events) + len(events[::3])) for _ in trackers]
    clock = datetime.now(UTC)
    *_, checked = await asyncio.gather(
        *(track(engine, told, batches) for told, batches in zip(mine, trackers, strict=True)),
        sweeping(),
        run(engine, clock),
    )
    assert checked.drift == 0
    async with connected(postgres_url) as rows:
        assert await counted(rows) == await recounted(rows)
        assert {granularity for granularity, *_ in await counted(rows)} == set(Granularity)
        await rows.execute("DELETE FROM rollup_checks")  # so that the next example looks again
