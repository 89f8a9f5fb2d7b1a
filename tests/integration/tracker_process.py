"""A tracker that really runs, and what it wrote and told."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import SecretStr

from services.contracts import Event, decode, encode
from services.contracts.events import SessionChanged
from services.contracts.topics import GROUP_TOPICS, SESSIONS, TRACKER_GROUP
from services.database.engine import asyncpg_url
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper
from services.runtime.kafka import publish_all
from services.runtime.shutdown import Shutdown
from services.session_tracker.app import serve
from services.session_tracker.settings import TrackerSettings
from tests.engine import on_apache_kafka
from tests.integration.kafka_log import producer, read_all
from tests.integration.ops import ask
from tests.patience import PATIENT_SECONDS

SOURCE = "/chat-sessions/test"
TRACKER_PARTITIONS = [TopicPartition(t.name, n) for t in GROUP_TOPICS[TRACKER_GROUP] for n in range(t.partitions)]
# As the command starts it.
RUN_TRACKER = "import gc, sys; gc.disable(); from services.session_tracker.app import main; sys.exit(main())"
SESSION_TIMEOUT_MS = 1000
"""A group's first join takes as long, and so does noticing that a member was killed."""


@dataclass(frozen=True, slots=True)
class Tracker:
    """A running tracker, in this process or in one of its own."""

    ops_port: int

    async def readiness(self) -> tuple[int, dict[str, str]]:
        """The status of `/health/ready`, and the problems that it names; 0 where nothing answers."""
        try:
            answer = await ask(self.ops_port, "/health/ready")
        except httpx.TransportError:
            return 0, {}
        return answer.status_code, answer.json()["problems"]

    async def metrics(self) -> str:
        return (await ask(self.ops_port, "/metrics")).text

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return (await self.readiness())[0] == 200

        await until(ready, "the tracker was ready")


@asynccontextmanager
async def tracker(
    bootstrap: str, database_url: str, *, shutdown: Shutdown | None = None, **settings: Any
) -> AsyncIterator[Tracker]:
    """A tracker in this process, `settings` by field name; afterwards it has stopped in order."""
    settings = TrackerSettings(
        kafka_bootstrap_servers=bootstrap,
        kafka_idempotence=on_apache_kafka(),
        kafka_session_timeout_ms=SESSION_TIMEOUT_MS,
        kafka_fetch_max_wait_ms=50,
        database_url=SecretStr(database_url),
        ops_port=free_port(),
        **settings,
    )
    shutdown = shutdown or Shutdown()
    serving = asyncio.create_task(serve(settings, shutdown))
    try:
        yield Tracker(settings.ops_port)
    finally:
        shutdown.request()
        async with asyncio.timeout(PATIENT_SECONDS):
            await serving


@dataclass(frozen=True, slots=True)
class TrackerProcess(Tracker):
    """A tracker in a process of its own."""

    child: ChildProcess

    async def exit_code(self) -> int:
        """Wait until it has ended; negative for a signal."""

        async def ended() -> bool:
            return self.child.exit_code() is not None

        await until(ended, "the process ended")
        code = self.child.exit_code()
        assert code is not None
        return code


@contextmanager
def tracker_process(
    bootstrap: str,
    database_url: str,
    log_path: Path,
    reaper: Reaper,
    *,
    program: Sequence[str] = ("-c", RUN_TRACKER),
    batch_records: int = 1000,
) -> Iterator[TrackerProcess]:
    port = free_port()
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_IDEMPOTENCE": str(on_apache_kafka()),
        "KAFKA_SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
        "KAFKA_FETCH_MAX_WAIT_MS": "50",
        "DATABASE_URL": database_url,
        "OPS_PORT": str(port),
        "TRACKER_BATCH_RECORDS": str(batch_records),
        "LOG_FORMAT": "text",
    }
    command = [sys.executable, "-W", "error", *program]
    child = start_process("tracker", command, environment=environment, log_path=log_path, reaper=reaper)
    try:
        yield TrackerProcess(port, child)
    finally:
        if child.exit_code() is None:
            child.stop(0)


async def publish_events(bootstrap: str, events: Iterable[Event]) -> None:
    """Return once every event is acknowledged, each on its key's partition."""
    async with producer(bootstrap) as client:
        await publish_all(client, [encode(event, source=SOURCE) for event in events])


async def changes(bootstrap: str) -> list[SessionChanged]:
    """Every SessionChanged so far; those of one session in the order in which they were told."""
    events = [decode(r.topic, r.headers, r.value) for r in await read_all(bootstrap, SESSIONS.name)]
    return [event for event in events if isinstance(event, SessionChanged)]


async def offsets(bootstrap: str, group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """What a group has committed of the partitions; nothing committed is 0."""
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group_id, enable_auto_commit=False)
    await reader.start()
    try:
        reader.assign(partitions)
        return {partition: await reader.committed(partition) or 0 for partition in partitions}
    finally:
        await reader.stop()


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for looking at what the tracker wrote."""
    connection = await asyncpg.connect(asyncpg_url(database_url))
    try:
        yield connection
    finally:
        await connection.close()


async def until_value(database_url: str, query: str, value: Any, seconds: float = PATIENT_SECONDS) -> None:
    """Return as soon as the query gives the value."""
    async with connected(database_url) as rows:
        found: Any = None

        async def same() -> bool:
            nonlocal found
            found = await rows.fetchval(query)
            return bool(found == value)

        try:
            await until(same, f"{query} gave {value!r}", seconds)
        except AssertionError as late:
            late.add_note(f"It gave {found!r}.")
            raise


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = PATIENT_SECONDS) -> None:
    """Return as soon as the condition holds; fail, saying what did not happen, after `seconds`."""
    give_up = time.monotonic() + seconds
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() < give_up, f"Within {seconds} s it did not happen that {what}."
        # What it costs to look leaves time for what is looked for.
        await asyncio.sleep(max(0.02, time.monotonic() - began))
        began = time.monotonic()
