"""`make bench-live`: what CLIENTS streams of events cost one gateway while sessions change RATE times a second.

Most clients watch the list of a user of their own, some under a filter, ten as admins everyone's. Before them, alone, a
bare reader of the topic. The last line is the bare reader's median delay over theirs.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlencode

import psutil
import uvloop
from aiokafka import AIOKafkaProducer, TopicPartition

from services.contracts import SessionChanged, SessionStatus, encode, new_id
from services.contracts.topics import SESSIONS
from services.local.processes import ChildProcess, free_port
from services.runtime.kafka import build_producer, build_reader
from tests.benchmarks.queries import until_ready
from tests.benchmarks.rig import Rig, cpu_seconds, running_rig, say
from tests.integration.gateway import SECRET, token

RUN_GATEWAY = "import sys; from services.api_gateway.app import main; sys.exit(main())"
TICK_SECONDS = 0.005
BARE_SECONDS = 5.0
WARM_SECONDS = 3.0
LATE_SECONDS = 10.0
LIVE = "/api/chat-sessions/live"
BEGUN = "begun"
SENT_AT = b'"sentAt":'
QUERIES = {
    "own list": {},
    "own list, filtered": {"q": "-status:FAILED OR attempts:>9"},
    "everyone's": {"userId": "*"},
    "everyone's, filtered": {"userId": "*", "q": "-persona:other"},
}


@dataclass
class Seen:
    """Delays from publishing to arrival, in milliseconds."""

    delays: list[float] = field(default_factory=list)

    def hear(self, data: bytes) -> None:
        now = time.time()
        place = data.find(SENT_AT)
        while place >= 0:
            start = place + len(SENT_AT)
            self.delays.append((now - float(data[start : data.index(b"}", start)])) * 1000)
            place = data.find(SENT_AT, start)

    def quantile(self, q: float) -> float:
        return sorted(self.delays)[int(len(self.delays) * q)]


class Client(asyncio.Protocol):
    """Asks for a stream, and hears it. Tells `news` once it has begun, and what goes wrong."""

    def __init__(self, query: str, authorization: str, seen: Seen, news: "asyncio.Queue[str]") -> None:
        self._ask = f"GET {LIVE}?{query} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {authorization}\r\n\r\n"
        self._seen = seen
        self._news = news
        self._rest = b""
        self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._ask.encode())

    def data_received(self, data: bytes) -> None:
        # An event may come in two parts.
        whole, end, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest
        if b"event: reconnect" in data or b"problem+json" in data:
            self._news.put_nowait(data.decode())
        elif not self._has_begun and b"event: position" in whole:
            self._has_begun = True
            self._news.put_nowait(BEGUN)
        self._seen.hear(whole + end)


def change(user: str) -> SessionChanged:
    session_id, now = new_id(), datetime.now(UTC)
    return SessionChanged(
        event_id=new_id(), occurred_at=now, session_id=session_id, conversation_id=f"c-{user}", persona_id="support",
        user_id=user, version=2, status=SessionStatus.COMPLETED, previous_status=SessionStatus.ACTIVE, started_at=now,
        ended_at=now, last_activity_at=now, attempts=1, response_ms=1250,
        metadata={"userAgent": "Mozilla/5.0 (X11; Linux x86_64)", "ipAddress": "192.0.2.7", "sentAt": time.time()},
    )  # fmt: skip


async def publish(producer: AIOKafkaProducer, users: int, rate: int, seconds: float) -> int:
    """Publish evenly; return how many."""
    clock = asyncio.get_running_loop().time
    began, sent = clock(), 0
    while (elapsed := clock() - began) < seconds:
        while sent < elapsed * rate:
            record = encode(change(f"user-{sent % users}"), source="/chat-sessions/bench")
            await producer.send(record.topic, record.value, key=record.key, headers=record.headers)
            sent += 1
        await asyncio.sleep(TICK_SECONDS)
    await producer.flush()
    return sent


async def bare(rig: Rig, producer: AIOKafkaProducer, users: int, rate: int) -> Seen:
    """What a reader that does nothing else sees."""
    reader, seen = build_reader(rig.settings, client_id="bare"), Seen()
    await reader.start()
    reader.assign([TopicPartition(SESSIONS.name, number) for number in range(SESSIONS.partitions)])
    await reader.seek_to_end()
    for partition in reader.assignment():
        await reader.position(partition)
    publishing = asyncio.create_task(publish(producer, users, rate, BARE_SECONDS))
    while not publishing.done():
        for records in (await reader.getmany(timeout_ms=100)).values():
            for record in records:
                seen.hear(record.value)
    await reader.stop()
    return seen


@contextlib.contextmanager
def gateway(rig: Rig, clients: int) -> Iterator[tuple[int, ChildProcess]]:
    port = free_port()
    settings = {
        **rig.client_settings, "KAFKA_BOOTSTRAP_SERVERS": rig.settings.kafka_bootstrap_servers,
        "DATABASE_URL": rig.database_url, "JWT_SECRET": SECRET, "GATEWAY_PORT": str(port), "RATE_LIMIT_READS": "0",
        "GATEWAY_MAX_STREAMS": str(clients), "GATEWAY_MAX_STREAMS_PER_USER": "0", "LOG_FORMAT": "text",
    }  # fmt: skip
    with rig.process("gateway", "-c", RUN_GATEWAY, **settings) as child:
        yield port, child


def kinds_of(clients: int) -> list[str]:
    """What each client watches, by the number of its user."""
    kinds = ["everyone's"] * 9 + ["everyone's, filtered"] + ["own list, filtered"] * 10
    return kinds + ["own list"] * (clients - len(kinds))


def expected_of(sent: int, clients: int) -> dict[str, int]:
    """How many events the clients of each kind are to hear of so many that were published."""
    expected = dict.fromkeys(QUERIES, 0)
    for user, kind in enumerate(kinds_of(clients)):
        expected[kind] += sent if kind.startswith("every") else len(range(user, sent, clients))
    return expected


async def arrived(seen: dict[str, Seen], expected: dict[str, int]) -> None:
    """Return once everything has arrived; what has not after LATE_SECONDS is missing in the report."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LATE_SECONDS):
            while any(len(seen[kind].delays) < count for kind, count in expected.items()):
                await asyncio.sleep(TICK_SECONDS)


@contextlib.asynccontextmanager
async def connected(port: int, clients: int) -> AsyncIterator[dict[str, Seen]]:
    """Lend what the clients of each kind see."""
    seen, transports = {name: Seen() for name in QUERIES}, []
    news: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    kinds = kinds_of(clients)
    for number, kind in enumerate(kinds):
        who = token("root", admin=True, exp=4_000_000_000) if kind.startswith("every") else token(f"user-{number}")

        def client(kind: str = kind, who: str = who) -> Client:
            return Client(urlencode(QUERIES[kind]), who, seen[kind], news)

        transports.append((await loop.create_connection(client, "127.0.0.1", port))[0])
    async with asyncio.timeout(60):
        for _ in kinds:
            assert (told := await news.get()) == BEGUN, told
    yield seen
    for transport in transports:
        transport.abort()
    assert news.empty(), news.get_nowait()


async def measure(rig: Rig, clients: int, rate: int, seconds: float) -> int:
    producer = build_producer(rig.settings)
    await producer.start()
    await publish(producer, clients, rate, WARM_SECONDS)
    alone = await bare(rig, producer, clients, rate)
    with gateway(rig, clients) as (port, child):
        await until_ready(f"http://127.0.0.1:{port}")
        await asyncio.sleep(WARM_SECONDS)
        idle = resident_mb(child)
        async with connected(port, clients) as seen:
            waiting = resident_mb(child)
            warm = await publish(producer, clients, rate, WARM_SECONDS)
            await arrived(seen, expected_of(warm, clients))
            for one in seen.values():
                one.delays.clear()
            used, began = cpu_seconds(child), time.monotonic()
            async with watched(child) as samples:
                sent = await publish(producer, clients, rate, seconds)
                busy = (cpu_seconds(child) - used) / (time.monotonic() - began)
                expected = expected_of(sent, clients)
                await arrived(seen, expected)
    await producer.stop()
    say(f"{clients:,} clients, {sent / seconds:,.0f} changes/s for {seconds:.0f} s, {rig.broker}")
    print(f"{'':<22} {'events':>8} {'expected':>9} {'p50, ms':>8} {'p99, ms':>8}")
    print(f"{'bare reader':<22} {len(alone.delays):8,} {'':>9} {alone.quantile(0.5):8.1f} {alone.quantile(0.99):8.1f}")
    every = Seen()
    for name, one in seen.items():
        every.delays += one.delays
        print(f"{name:<22} {len(one.delays):8,} {expected[name]:9,} {one.quantile(0.5):8.1f} {one.quantile(0.99):8.1f}")
    print(
        f"gateway: {idle:.0f} MB idle, {waiting - idle:+.0f} with clients, {max(samples) - idle:+.0f} under load;"
        f" {busy * 100:.0f} % of a core; {len(every.delays) / seconds:,.0f} events/s sent"
    )
    print(f"live ratio {alone.quantile(0.5) / every.quantile(0.5):.2f}")
    return 0


def resident_mb(child: ChildProcess) -> float:
    return float(psutil.Process(child.pid).memory_info().rss / 1e6)


@contextlib.asynccontextmanager
async def watched(child: ChildProcess) -> AsyncIterator[list[float]]:
    """Sample the memory of a process."""
    samples: list[float] = []

    async def look() -> None:
        while True:
            samples.append(resident_mb(child))
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        yield samples
    finally:
        looking.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=1_000, help="changes a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    options = parser.parse_args()
    with running_rig(options.broker) as rig:
        return uvloop.run(measure(rig, options.clients, options.rate, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
