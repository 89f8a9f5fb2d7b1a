"""A cluster of three brokers under load, and what fails in it: nothing accepted is lost, and nobody pretends.

Each test prints its ledger.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from services.contracts.topics import DEAD_LETTER_TOPICS, MESSAGES, TOPICS
from services.local.apache_kafka import ApacheKafka
from services.local.data_directory import read_stack
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper
from services.local.stack_options import service_program
from services.runtime.kafka import build_admin
from services.runtime.settings import KafkaSettings
from tests.cluster.ledger import Ledger, close_ledger
from tests.cluster.load import PER_SECOND, Load, steady_load
from tests.cluster.watch import NO_ANSWER, READY, Watch, watching
from tests.e2e.local_stack import Up
from tests.freezing import freeze, thaw

pytestmark = pytest.mark.timeout(300)

QUIET_SECONDS = 5.0
"""Load before and after what happens, so that there is something to compare with."""
DOWN_SECONDS = 12.0
STOPPED_SECONDS = 60.0


@dataclass(slots=True)
class Run:
    """One load on the system, and what is known of it; the ledger is there once the load has ended."""

    stack: dict[str, Any]
    load: Load
    watch: Watch
    ledger: Ledger | None = None


Show = Callable[[str], None]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    return say


@asynccontextmanager
async def under_load(system: Up, show: Show, title: str) -> AsyncIterator[Run]:
    """Run the block under load, then wait until all has ended, show the ledger, and check what must always be true."""
    stack = system.stack()
    async with watching(stack["opsUrls"]) as watch:
        try:
            await watch.until_calm()
            async with steady_load(lambda: [stack["gatewayUrl"]], stack["userToken"]) as load:
                run = Run(stack, load, watch)
                await asyncio.sleep(QUIET_SECONDS)
                yield run
                await asyncio.sleep(QUIET_SECONDS)
            run.ledger = await close_ledger(stack, load)
            show(f"\n{title}\n{run.ledger}")
        finally:
            show(watch.story())
        run.ledger.assert_nothing_went_wrong()
        await watch.until_calm()
        assert system.stack()["processes"] == stack["processes"], "A process ended that should not."


@contextmanager
def added(system: Up, cluster: ApacheKafka, command: str, reaper: Reaper, watch: Watch) -> Iterator[ChildProcess]:
    """One more process of a kind, told to stop in order at the end of the block."""
    environment = {
        **os.environ,
        **cluster.client_settings,
        **read_stack(system.data_directory).settings,
        "EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
        "LOG_FORMAT": "text",
    }
    program = service_program(f"added-{command}", command, environment, free_port())
    log_path = system.data_directory.with_name(f"{program.name}.log")
    child = start_process(
        program.name, program.command, environment=program.environment, log_path=log_path, reaper=reaper
    )
    watch.urls[program.name] = program.ops_url
    try:
        yield child
    finally:
        code = child.stop(30)
        del watch.urls[program.name]
    assert code == 0, child.last_lines(20)


async def until_all_in_sync(settings: KafkaSettings) -> None:
    """Return once every partition has all three replicas."""
    names = [topic.name for topic in (*TOPICS, *DEAD_LETTER_TOPICS)]
    async with asyncio.timeout(60):
        while True:
            admin = build_admin(settings)
            await admin.start()
            try:
                topics = await admin.describe_topics(names)
            finally:
                await admin.close()
            if all(len(partition["isr"]) == 3 for topic in topics for partition in topic["partitions"]):
                return
            await asyncio.sleep(0.5)


@pytest.fixture
def settings(cluster: ApacheKafka) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=cluster.bootstrap)


async def test_a_broker_is_killed_and_comes_back(
    system: Up, cluster: ApacheKafka, settings: KafkaSettings, show: Show
) -> None:
    async with under_load(system, show, "kill -9 of one broker of three, back after 12 s"):
        await asyncio.to_thread(cluster.kill_broker, 1)
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(cluster.start_broker, 1)
        await until_all_in_sync(settings)


async def test_all_brokers_are_restarted_in_turn(
    system: Up, cluster: ApacheKafka, settings: KafkaSettings, show: Show
) -> None:
    async with under_load(system, show, "Rolling restart of three brokers"):
        for number in (1, 2, 3):
            await asyncio.to_thread(cluster.stop_broker, number)
            await asyncio.to_thread(cluster.start_broker, number)
            await until_all_in_sync(settings)


@pytest.mark.parametrize("kind", ["dispatcher", "tracker"])
async def test_one_more_process_comes_and_goes(
    system: Up, cluster: ApacheKafka, reaper: Reaper, show: Show, kind: str
) -> None:
    async with under_load(system, show, f"A {kind} added and removed") as run:
        watch = run.watch
        with added(system, cluster, kind, reaper, watch):
            await watch.until(lambda: shared(watch, kind), f"both {kind}s have partitions")
            await asyncio.sleep(QUIET_SECONDS)
        await watch.until(lambda: len(messages_of(watch, kind)) == 8, f"the first {kind} has all partitions again")


def messages_of(watch: Watch, name: str) -> set[str]:
    """The partitions of the messages topic of which a process tells its lag."""
    return {partition for topic, partition in watch.last(name).lag if topic == MESSAGES.name}


def shared(watch: Watch, kind: str) -> bool:
    """Whether each of two processes says that it is ready, and of which partitions: all, and none twice."""
    names = (kind, f"added-{kind}")
    if any(name not in watch.samples or watch.last(name).state != READY for name in names):
        return False
    one, other = (messages_of(watch, name) for name in names)
    return bool(one and other) and not one & other and len(one | other) == MESSAGES.partitions


async def test_a_tracker_stands_still_for_a_minute_and_catches_up(system: Up, show: Show) -> None:
    async with under_load(system, show, "The tracker stopped for 60 s") as run:
        tracker = run.stack["processes"]["tracker"]
        freeze(tracker)
        stopped = run.watch.now()
        try:
            await asyncio.sleep(STOPPED_SECONDS / 2)
            assert await answer_for_the_newest(run) == (503, "not-yet-tracked")
            await asyncio.sleep(STOPPED_SECONDS / 2)
        finally:
            thaw(tracker)
        resumed = run.watch.now()
        await run.watch.until(lambda: run.watch.last("tracker").state == READY, "the tracker is ready again")
        assert run.watch.states("tracker", stopped + 2, resumed - 1) == {NO_ANSWER}
    # Catching up takes moments, of which the samples see some.
    assert run.watch.peak_lag("tracker", since=resumed) > 5 * PER_SECOND


async def answer_for_the_newest(run: Run) -> tuple[int, str | None]:
    """What the gateway answers about the session that was accepted last."""
    newest = max(messages[-1].session_id for messages in run.load.conversations.values() if messages)
    headers = {"authorization": f"Bearer {run.stack['userToken']}"}
    async with httpx.AsyncClient(base_url=run.stack["gatewayUrl"], headers=headers, trust_env=False) as client:
        answer = await client.get(f"/api/chat-sessions/{newest}", timeout=20)
        return answer.status_code, answer.json().get("code")
