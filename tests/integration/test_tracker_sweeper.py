"""The sweep producer: the last due instant on start, then one each interval, the same from every producer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.contracts import TimeoutSweep, decode
from services.contracts.topics import SWEEPS
from services.local.broker import start_broker
from services.local.processes import free_port
from services.local.reaper import Reaper
from services.runtime.shutdown import Shutdown
from services.runtime.topics import create_topics
from services.session_tracker import sweeper as sweeper_module
from services.session_tracker.settings import SweeperSettings
from services.session_tracker.sweeper import last_due, serve, sweep_due_at
from tests.integration.kafka_log import read_all, settings_for
from tests.integration.tracker_process import Tracker, until
from tests.patience import PATIENT_SECONDS

SECOND, SIX_HOURS = timedelta(seconds=1), timedelta(hours=6)


@asynccontextmanager
async def sweeper(bootstrap: str, interval: timedelta) -> AsyncIterator[Tracker]:
    settings = SweeperSettings(
        kafka_bootstrap_servers=bootstrap,
        kafka_idempotence=False,
        chat_session_cleanup_interval=interval / timedelta(hours=1),
        ops_port=free_port(),
    )
    shutdown = Shutdown()
    serving = asyncio.create_task(serve(settings, shutdown))
    try:
        yield Tracker(settings.ops_port)
    finally:
        shutdown.request()
        async with asyncio.timeout(PATIENT_SECONDS):
            await serving
    assert shutdown.exit_code == 0


async def requested(bootstrap: str) -> list[TimeoutSweep]:
    events = [decode(r.topic, r.headers, r.value) for r in await read_all(bootstrap, SWEEPS.name)]
    return [event for event in events if isinstance(event, TimeoutSweep)]


async def test_two_producers_ask_for_the_same_sweeps(bootstrap: str) -> None:
    async with sweeper(bootstrap, SECOND) as one, sweeper(bootstrap, SECOND) as other:

        async def three_by_both() -> bool:
            counts = Counter(sweep.sweep_id for sweep in await requested(bootstrap))
            return sum(count == 2 for count in counts.values()) >= 3

        await until(three_by_both, "both had asked for three sweeps")
        assert [(await each.readiness())[0] for each in (one, other)] == [200, 200]
        assert "chat_sweeps_requested_total" in await one.metrics()
    sweeps = await requested(bootstrap)
    due = sorted({sweep.as_of for sweep in sweeps})
    assert due == [due[0] + n * SECOND for n in range(len(due))]
    assert all(sweep == sweep_due_at(sweep.as_of) for sweep in sweeps)


async def test_it_waits_for_kafka_and_asks_for_what_was_last_due(
    tmp_path: Path, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper_module, "RETRY_SECONDS", 0.2)
    port = free_port()
    async with sweeper(f"127.0.0.1:{port}", SIX_HOURS) as running:

        async def waiting() -> bool:
            return (await running.readiness())[0] == 503

        await until(waiting, "it answered that it was not ready")
        broker = start_broker(port, tmp_path / "broker.log", reaper)
        try:
            await create_topics(settings_for(broker.bootstrap))
            await running.until_ready()
            assert await requested(broker.bootstrap) == [sweep_due_at(last_due(datetime.now(UTC), SIX_HOURS))]
        finally:
            broker.process.stop(0)


async def test_it_can_be_stopped_while_kafka_is_away() -> None:
    async with sweeper(f"127.0.0.1:{free_port()}", SIX_HOURS) as running:

        async def waiting() -> bool:
            return (await running.readiness())[0] == 503

        await until(waiting, "it answered that it was not ready")


def test_an_instant_is_due_at_every_multiple_of_the_interval() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert last_due(noon, SIX_HOURS) == noon
    assert last_due(noon - timedelta(microseconds=1), SIX_HOURS) == noon - SIX_HOURS
    assert last_due(noon + timedelta(hours=5, minutes=59), SIX_HOURS) == noon
    assert sweep_due_at(noon) == sweep_due_at(noon)
    assert sweep_due_at(noon).sweep_id != sweep_due_at(noon + SIX_HOURS).sweep_id
