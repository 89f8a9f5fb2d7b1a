"""A dispatcher that really runs, and what tests send it and read of it."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from pydantic import SecretStr

from services.contracts import MessageSent, WebhookAttempted, WebhookFailed, WebhookSucceeded, decode
from services.contracts.events import ResultEvent
from services.contracts.topics import DISPATCHER_GROUP, MESSAGES, RESULTS
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper
from services.runtime.shutdown import Shutdown
from services.webhook_dispatcher.app import serve
from services.webhook_dispatcher.settings import DispatcherSettings
from tests.engine import on_apache_kafka
from tests.integration.kafka_log import read_all
from tests.integration.ops import ask
from tests.integration.tracker_process import connected, offsets, until
from tests.patience import PATIENT_SECONDS
from tests.sample_events import SessionEvents

MESSAGE_PARTITIONS = [TopicPartition(MESSAGES.name, number) for number in range(MESSAGES.partitions)]
# As the command starts it.
RUN_DISPATCHER = "import gc, sys; gc.disable(); from services.webhook_dispatcher.app import main; sys.exit(main())"


async def add_persona(database_url: str, persona_id: str, webhook_url: str, **columns: object) -> None:
    """Insert or replace a persona as the gateway does."""
    named = {"personaId": persona_id, "webhookUrl": webhook_url, **columns}
    names = ", ".join(f'"{name}"' for name in named)
    places = ", ".join(f"${number}" for number in range(1, len(named) + 1))
    async with connected(database_url) as rows:
        await rows.execute('DELETE FROM personas WHERE "personaId" = $1', persona_id)
        await rows.execute(f"INSERT INTO personas ({names}) VALUES ({places})", *named.values())


def settings(bootstrap: str, database_url: str, **changes: Any) -> DispatcherSettings:
    return DispatcherSettings(
        **{
            "kafka_bootstrap_servers": bootstrap,
            "kafka_idempotence": on_apache_kafka(),
            "kafka_session_timeout_ms": 1000,
            "kafka_fetch_max_wait_ms": 20,
            "database_url": SecretStr(database_url),
            "egress_allow_cidrs": "127.0.0.0/8",
            "ops_port": free_port(),
            **changes,
        }
    )


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """A running dispatcher."""

    ops_port: int
    shutdown: Shutdown

    async def problems(self) -> dict[str, str] | None:
        """What `/health/ready` complains of; None where nothing answers."""
        try:
            found: dict[str, str] = (await ask(self.ops_port, "/health/ready")).json()["problems"]
        except httpx.TransportError:
            return None
        return found

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return await self.problems() == {}

        await until(ready, "the dispatcher was ready")

    async def metric(self, line: str) -> float:
        """The value of one line of `/metrics`; 0 where it, or the process, is absent."""
        found = await self.metrics(line + " ")
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    async def metrics(self, beginning: str) -> list[str]:
        """The lines of `/metrics` that begin so; none where the process is absent."""
        try:
            exposed = (await ask(self.ops_port, "/metrics")).text
        except httpx.TransportError:
            return []
        return [line for line in exposed.splitlines() if line.startswith(beginning)]


@asynccontextmanager
async def dispatcher(bootstrap: str, database_url: str, **changes: Any) -> AsyncIterator[Dispatcher]:
    """A dispatcher in this process; afterwards it has stopped in order."""
    chosen, shutdown = settings(bootstrap, database_url, **changes), Shutdown()
    serving = asyncio.create_task(serve(chosen, shutdown))
    try:
        yield Dispatcher(chosen.ops_port, shutdown)
        assert shutdown.exit_code == 0
    finally:
        shutdown.request()
        async with asyncio.timeout(PATIENT_SECONDS):
            await serving


@asynccontextmanager
async def dispatcher_process(
    bootstrap: str, database_url: str, log_path: Path, reaper: Reaper, **changes: str
) -> AsyncIterator[ChildProcess]:
    """A dispatcher in a process of its own; `changes` are of its environment."""
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_IDEMPOTENCE": str(on_apache_kafka()),
        "KAFKA_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_FETCH_MAX_WAIT_MS": "20",
        "DATABASE_URL": database_url,
        "EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
        "OPS_PORT": str(free_port()),
        "LOG_FORMAT": "text",
        **changes,
    }
    command = [sys.executable, "-W", "error", "-c", RUN_DISPATCHER]
    child = start_process("dispatcher", command, environment=environment, log_path=log_path, reaper=reaper)
    try:
        yield child
    finally:
        if child.exit_code() is None:
            # In a thread: a test's webhook must go on answering meanwhile.
            await asyncio.to_thread(child.stop, 15)


def messages(conversations: int, each: int) -> list[MessageSent]:
    """Messages of several conversations, interleaved."""
    return [SessionEvents(conversation=f"c{c}").sent(f"{n}") for n in range(each) for c in range(conversations)]


async def until_all_committed(bootstrap: str) -> None:
    counts = Counter(record.partition for record in await read_all(bootstrap, MESSAGES.name))

    async def committed() -> bool:
        found = await offsets(bootstrap, DISPATCHER_GROUP, MESSAGE_PARTITIONS)
        return all(found[partition] == counts[partition.partition] for partition in MESSAGE_PARTITIONS)

    await until(committed, "every offset was committed")


async def rewind(bootstrap: str) -> None:
    """Make the group, which has no members now, begin again at the first record of every partition."""
    member = AIOKafkaConsumer(
        MESSAGES.name,
        bootstrap_servers=bootstrap,
        group_id=DISPATCHER_GROUP,
        enable_auto_commit=False,
        session_timeout_ms=1000,
        heartbeat_interval_ms=300,
        partition_assignment_strategy=(RangePartitionAssignor,),
    )
    await member.start()
    try:

        async def joined() -> bool:
            return bool(member.assignment() == set(MESSAGE_PARTITIONS))

        await until(joined, "the group was joined")
        await member.commit(dict.fromkeys(MESSAGE_PARTITIONS, 0))
    finally:
        await member.stop()


async def results(bootstrap: str) -> list[ResultEvent]:
    """Every result event, in the order of each partition."""
    found = []
    for record in await read_all(bootstrap, RESULTS.name):
        event = decode(record.topic, record.headers, record.value)
        assert isinstance(event, WebhookAttempted | WebhookSucceeded | WebhookFailed)
        found.append(event)
    return found


async def results_of(bootstrap: str, session_id: UUID) -> list[ResultEvent]:
    return [event for event in await results(bootstrap) if event.session_id == session_id]


async def ended(bootstrap: str, session_id: UUID, seconds: float = PATIENT_SECONDS) -> WebhookSucceeded | WebhookFailed:
    """The event that ends a session, as soon as it is there."""
    found: list[WebhookSucceeded | WebhookFailed] = []

    async def there() -> bool:
        found.extend(e for e in await results_of(bootstrap, session_id) if not isinstance(e, WebhookAttempted))
        return bool(found)

    await until(there, f"the session {session_id} ended", seconds)
    return found[0]


async def until_ended(bootstrap: str, count: int, seconds: float = PATIENT_SECONDS) -> list[ResultEvent]:
    """Every result event, as soon as `count` sessions have ended."""
    found: list[ResultEvent] = []

    async def all_there() -> bool:
        found[:] = await results(bootstrap)
        return len({e.session_id for e in found if not isinstance(e, WebhookAttempted)}) >= count

    await until(all_there, f"{count} sessions ended", seconds)
    return found
