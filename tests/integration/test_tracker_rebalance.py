"""Trackers that join, leave and are killed while events flow: rows, history and rollups stay exact."""

import signal
from contextlib import ExitStack
from pathlib import Path

from services.contracts.topics import TRACKER_GROUP
from services.local.reaper import Reaper
from tests.integration.event_flow import flow_of_events
from tests.integration.tracker_process import (
    TRACKER_PARTITIONS,
    TrackerProcess,
    connected,
    offsets,
    tracker_process,
    until,
    until_value,
)
from tests.recount import assert_rollups_exact


async def until_it_folds(tracker: TrackerProcess) -> None:
    async def folds() -> bool:
        status, _ = await tracker.readiness()
        return status == 200 and any(
            line.startswith("chat_events_folded_total") and not line.endswith(" 0.0")
            for line in (await tracker.metrics()).splitlines()
        )

    await until(folds, "a tracker that joined folded events", 30)


async def test_statistics_stay_exact_while_trackers_come_and_go(
    bootstrap: str, postgres_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    async with flow_of_events(bootstrap) as flow:
        with ExitStack() as stack:

            def start(name: str) -> TrackerProcess:
                log = tmp_path / f"{name}.log"
                running = tracker_process(bootstrap, postgres_url, log, reaper, batch_records=50)
                return stack.enter_context(running)

            first = start("first")
            await until_it_folds(first)
            second = start("second")
            await until_it_folds(second)
            first.child.ask_to_stop()
            assert await first.exit_code() == 0, first.child.last_lines(30)
            third = start("third")
            await until_it_folds(third)
            second.child.stop(0, signal.SIGKILL)
            await flow.stop()
            done = f"SELECT count(*) = {flow.sessions} FROM chat_sessions WHERE status = 'COMPLETED'"
            await until_value(postgres_url, done, value=True, seconds=30)

            async def all_committed() -> bool:
                return sum((await offsets(bootstrap, TRACKER_GROUP, TRACKER_PARTITIONS)).values()) == 2 * flow.sessions

            await until(all_committed, "every offset was committed")
            third.child.ask_to_stop()
            assert await third.exit_code() == 0, third.child.last_lines(30)
    async with connected(postgres_url) as rows:
        history = await rows.fetchrow(
            "SELECT count(*) AS events, count(*) FILTER (WHERE late) AS late FROM session_events"
        )
        versions = await rows.fetchval("SELECT array_agg(DISTINCT version) FROM chat_sessions")
    assert (history["events"], history["late"], versions) == (2 * flow.sessions, 0, [2])
    await assert_rollups_exact(postgres_url)
