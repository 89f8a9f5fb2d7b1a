"""A dispatcher that really runs, and a webhook server that does what a test tells it."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from aiokafka import TopicPartition
from pydantic import SecretStr

from services.contracts import WebhookAttempted, WebhookFailed, WebhookSucceeded, decode
from services.contracts.events import ResultEvent
from services.contracts.topics import MESSAGES, RESULTS
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper
from services.runtime.consumer import RawRecord
from services.runtime.kafka import build_reader
from services.runtime.shutdown import Shutdown
from services.webhook_dispatcher.app import serve
from services.webhook_dispatcher.settings import DispatcherSettings
from tests.integration.kafka_log import settings_for
from tests.integration.tracker_process import connected, until

MESSAGE_PARTITIONS = [TopicPartition(MESSAGES.name, number) for number in range(MESSAGES.partitions)]
RUN_DISPATCHER = "import sys; from services.webhook_dispatcher.app import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the webhook server got it; `number` counts the calls of its session from 1."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    number: int

    @property
    def session_id(self) -> UUID:
        return UUID(self.body["sessionId"])


Answer = Callable[[Call], Awaitable[bytes]]


def http(body: object = None, status: int = 200, **headers: str) -> bytes:
    """An HTTP answer; everything but bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-type": "application/json", "content-length": str(len(content))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def echo(call: Call) -> bytes:
    return http({"reply": f"You said: {call.body['message']}"})


async def never(call: Call) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


@dataclass(slots=True)
class Webhook:
    """A webhook server. A call that its caller breaks off goes to `broken_off`."""

    port: int = 0
    answer: Answer = echo
    calls: list[Call] = field(default_factory=list)
    broken_off: list[Call] = field(default_factory=list)
    counts: Counter[UUID] = field(default_factory=Counter)
    connections: int = 0

    def url(self, persona_id: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/webhook/{persona_id}"

    def sessions(self) -> list[UUID]:
        return [call.session_id for call in self.calls]

    def calls_of(self, session_id: UUID) -> int:
        return self.counts[session_id]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                call = await self._read(reader)
                self.calls.append(call)
                answering = asyncio.ensure_future(self.answer(call))
                leaving = asyncio.ensure_future(reader.read(1))
                try:
                    await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    finished = answering.done()
                    for task in (answering, leaving):
                        task.cancel()
                    await asyncio.gather(answering, leaving, return_exceptions=True)
                if not finished:
                    self.broken_off.append(call)
                    break
                writer.write(answering.result())
                await writer.drain()
                if b"content-length" not in answering.result():
                    break

    async def _read(self, reader: asyncio.StreamReader) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        session_id = UUID(body["sessionId"])
        self.counts[session_id] += 1
        return Call(head[0].split(" ")[1], headers, body, self.counts[session_id])


@asynccontextmanager
async def webhook_server(answer: Answer = echo) -> AsyncIterator[Webhook]:
    """A webhook server on 127.0.0.1."""
    webhook = Webhook(answer=answer)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(webhook.connected(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    webhook.port = server.sockets[0].getsockname()[1]
    try:
        yield webhook
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        ends = await asyncio.gather(*connections, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends


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
            "kafka_idempotence": False,
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

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ops_port}", trust_env=False) as client:
            return await client.get(path, timeout=5)

    async def problems(self) -> dict[str, str] | None:
        """What `/health/ready` complains of; None where nothing answers."""
        try:
            found: dict[str, str] = (await self.get("/health/ready")).json()["problems"]
        except httpx.TransportError:
            return None
        return found

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return await self.problems() == {}

        await until(ready, "the dispatcher was ready")

    async def metric(self, line: str) -> float:
        """The value of one line of `/metrics`; 0 where it, or the process, is absent."""
        try:
            exposed = (await self.get("/metrics")).text
        except httpx.TransportError:
            return 0.0
        found = [entry for entry in exposed.splitlines() if entry.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


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
        async with asyncio.timeout(30):
            await serving


@contextmanager
def dispatcher_process(bootstrap: str, database_url: str, log_path: Path, reaper: Reaper) -> Iterator[ChildProcess]:
    """A dispatcher in a process of its own."""
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_IDEMPOTENCE": "false",
        "KAFKA_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_FETCH_MAX_WAIT_MS": "20",
        "DATABASE_URL": database_url,
        "EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
        "OPS_PORT": str(free_port()),
        "LOG_FORMAT": "text",
    }
    command = [sys.executable, "-W", "error", "-c", RUN_DISPATCHER]
    child = start_process("dispatcher", command, environment=environment, log_path=log_path, reaper=reaper)
    try:
        yield child
    finally:
        if child.exit_code() is None:
            child.stop(15)


async def results(bootstrap: str) -> list[ResultEvent]:
    """Every result event, in the order of each partition."""
    found = []
    for record in await read_to_highwater(bootstrap, RESULTS.name):
        event = decode(record.topic, record.headers, record.value)
        assert isinstance(event, WebhookAttempted | WebhookSucceeded | WebhookFailed)
        found.append(event)
    return found


async def read_to_highwater(bootstrap: str, topic: str) -> list[RawRecord]:
    """Every record of a topic that has lost none yet; its end is what fetches tell."""
    reader = build_reader(settings_for(bootstrap), client_id="test-reader")
    await reader.start()
    try:
        await reader.topics()
        partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))]
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        found: dict[TopicPartition, list[RawRecord]] = {partition: [] for partition in partitions}
        async with asyncio.timeout(20):
            while any(len(found[p]) < (1 if (end := reader.highwater(p)) is None else end) for p in partitions):
                for partition, records in (await reader.getmany(timeout_ms=100)).items():
                    found[partition] += records
        return [record for partition in partitions for record in found[partition]]
    finally:
        await reader.stop()


async def results_of(bootstrap: str, session_id: UUID) -> list[ResultEvent]:
    return [event for event in await results(bootstrap) if event.session_id == session_id]


async def ended(bootstrap: str, session_id: UUID, seconds: float = 20) -> WebhookSucceeded | WebhookFailed:
    """The event that ends a session, as soon as it is there."""
    found: list[WebhookSucceeded | WebhookFailed] = []

    async def there() -> bool:
        found.extend(e for e in await results_of(bootstrap, session_id) if not isinstance(e, WebhookAttempted))
        return bool(found)

    await until(there, f"the session {session_id} ended", seconds)
    return found[0]


async def until_ended(bootstrap: str, count: int, seconds: float = 60) -> list[ResultEvent]:
    """Every result event, as soon as `count` sessions have ended."""
    found: list[ResultEvent] = []

    async def all_there() -> bool:
        found[:] = await results(bootstrap)
        return len({e.session_id for e in found if not isinstance(e, WebhookAttempted)}) >= count

    await until(all_there, f"{count} sessions ended", seconds)
    return found
