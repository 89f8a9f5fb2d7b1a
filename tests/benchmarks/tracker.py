"""`make bench-tracker`: events/s that real tracker processes fold from filled topics into PostgreSQL.

Half of the events are messages, half their replies; messages of a conversation lie far apart, as people write them.
Beside them, in the same run: the same rows written by the same statements from ready-made arrays (no Kafka, no
decoding, no folding), and by COPY. The last line is the ratio of one tracker's rate to the ready-made arrays'.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from services.contracts import encode
from services.contracts.topics import MESSAGES, PARTITIONS, RESULTS, TRACKER_GROUP
from services.database.migrate import migrate
from services.local.apache_kafka import start_apache_kafka
from services.local.broker import EMBEDDED_BROKER_SETTINGS, start_broker
from services.local.kafka_artifacts import kafka_artifacts
from services.local.postgres import EmbeddedPostgres, start_postgres
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper, start_reaper
from services.runtime.kafka import build_producer, build_reader, publish_all
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from tests.benchmarks.ready_rows import Transaction, noted, seconds_to_copy, seconds_to_write
from tests.sample_events import SessionEvents

FILLED = [TopicPartition(topic.name, n) for topic in (MESSAGES, RESULTS) for n in range(PARTITIONS)]
CHUNK = 2000
MESSAGES_A_CONVERSATION = 10
CONVERSATIONS_A_USER = 2
NOTED = 100_000
"""Most events whose rows are written from ready-made arrays: those are all in memory."""
BATCH_RECORDS = 1000
LIMIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Engines:
    """A broker with filled topics, and a PostgreSQL; `broker` is what its clients have in their environment."""

    directory: Path
    reaper: Reaper
    broker: dict[str, str]
    postgres: EmbeddedPostgres

    def settings(self) -> KafkaSettings:
        return KafkaSettings(**{name.lower(): value for name, value in self.broker.items()})

    def new_database(self, name: str) -> str:
        """Make a migrated, empty database; return its address."""
        self.postgres.run_sql(f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY file_copy")
        return self.postgres.url(name)


@dataclass(slots=True)
class Folding:
    """Trackers at work: events folded, and what that took."""

    seconds: float
    events: int
    resident_mb: list[list[float]]
    """Of each process, after each tenth of the events."""
    cpu_seconds: float
    postgres_cpu_seconds: float

    def report(self, name: str) -> None:
        own, postgres = (used / self.events * 1e6 for used in (self.cpu_seconds, self.postgres_cpu_seconds))
        rate = self.events / self.seconds
        print(f"{name:<18} {rate:8,.0f} events/s; CPU {own:.0f} µs an event, and {postgres:.0f} of PostgreSQL")
        for resident in self.resident_mb:
            print(f"  resident memory after each tenth, MB: {' '.join(f'{mb:.0f}' for mb in resident)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="half messages, half replies")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--only", choices=["one"], help="only the single tracker, without the figures beside it")
    options = parser.parse_args()
    with engines(options.broker) as running:
        return uvloop.run(measure(running, options.events, alone=options.only is not None))


async def measure(engines: Engines, events: int, *, alone: bool) -> int:
    say(f"Filling the topics with {events:,} events")
    await create_topics(engines.settings())
    await migrate(engines.postgres.url("migrated"))
    await fill(engines, events)
    if alone:
        (await fold(engines, "one", 1, events)).report("one tracker")
        return 0
    say("Noting down the statements of a fold of them all, which also warms broker and PostgreSQL")
    noted_in, noted_events = engines.new_database("noted"), min(events, NOTED)
    transactions = await note_down(engines, noted_in, noted_events)
    say("Writing the same rows from ready-made arrays, with one and two trackers in between")
    before = noted_events / await seconds_to_write(transactions, engines.new_database("arrays_before"))
    one = await fold(engines, "one", 1, events)
    between = noted_events / await seconds_to_write(transactions, engines.new_database("arrays_between"))
    two = await fold(engines, "two", 2, events)
    after = noted_events / await seconds_to_write(transactions, engines.new_database("arrays_after"))
    copied = noted_events / await seconds_to_copy(noted_in, engines.new_database("copied"))
    print(f"{'ready-made arrays':<18} {between:8,.0f} events/s (before {before:,.0f}, after {after:,.0f})")
    print(f"{'COPY, final rows':<18} {copied:8,.0f} events/s")
    one.report("one tracker")
    two.report("two trackers")
    arrays = (before + between) / 2
    print(f"two trackers ratio {two.events / two.seconds / ((between + after) / 2):.2f}")
    print(f"tracker ratio {one.events / one.seconds / arrays:.2f}")
    return 0


async def fill(engines: Engines, events: int) -> None:
    """Publish every message, then every reply, each on its key's partition."""
    producer = build_producer(engines.settings())
    await producer.start()
    conversations = max(1, events // 2 // MESSAGES_A_CONVERSATION)
    for first in range(0, events // 2, CHUNK):
        numbers = [n % conversations for n in range(first, min(first + CHUNK, events // 2))]
        each = [
            SessionEvents(conversation=f"c{n}", persona=f"p{n % 20}", user=f"u{n // CONVERSATIONS_A_USER}")
            for n in numbers
        ]
        sent = [encode(one.sent("What is the weather like in Lisbon next week?"), source="/bench") for one in each]
        replies = [encode(one.succeeded("Mild and mostly sunny, 18 degrees."), source="/bench") for one in each]
        await publish_all(producer, sent + replies)
    await producer.stop()


async def note_down(engines: Engines, database_url: str, events: int) -> list[Transaction]:
    consumer = build_reader(engines.settings(), client_id="bench-reader")
    producer = build_producer(engines.settings())
    await consumer.start()
    await producer.start()
    try:
        return await noted(consumer, producer, database_url, FILLED, events=events, batch_records=BATCH_RECORDS)
    finally:
        await consumer.stop()
        await producer.stop()


async def fold(engines: Engines, name: str, processes: int, events: int) -> Folding:
    """Let trackers fold everything into a database of their own, and watch them from when all of them are at it."""
    await rewind_group(engines)
    database_url = engines.new_database(name)
    with ExitStack() as stack:
        ports = [free_port() for _ in range(processes)]
        children = [stack.enter_context(tracker(engines, database_url, f"{name}-{p}", p)) for p in ports]
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await watch(client, ports, children, engines.postgres, events)


async def watch(
    client: httpx.AsyncClient,
    ports: Sequence[int],
    children: Sequence[ChildProcess],
    postgres: EmbeddedPostgres,
    events: int,
) -> Folding:
    """Measure from when a twentieth is folded, so that joining the group does not count, to the end."""
    give_up = time.monotonic() + LIMIT_SECONDS
    processes = [psutil.Process(child.pid) for child in children]
    server = ServerTime(psutil.Process(postgres.process.pid))
    began: tuple[float, int, float, float] | None = None
    memory: list[list[float]] = [[] for _ in children]
    while time.monotonic() < give_up:
        for child in children:
            child.ensure_running()
        folded = [await folded_events(client, port) for port in ports]
        now, cpu, at_server = time.perf_counter(), sum(map(cpu_seconds, processes)), server.seconds()
        if began is None and min(folded) > 0 and sum(folded) > events / 20:
            began = now, sum(folded), cpu, at_server
        if sum(folded) >= events / 10 * (len(memory[0]) + 1):
            for process, seen in zip(processes, memory, strict=True):
                seen.append(process.memory_info().rss / 1e6)
        if sum(folded) >= events and began is not None:
            return Folding(now - began[0], events - began[1], memory, cpu - began[2], at_server - began[3])
        await asyncio.sleep(0.25)
    raise SystemExit(f"The trackers folded {sum(folded):,} of {events:,} events in {LIMIT_SECONDS:.0f} s.")


class ServerTime:
    """CPU that PostgreSQL's processes use, those that end on the way too."""

    def __init__(self, postmaster: psutil.Process) -> None:
        self._postmaster = postmaster
        self._seen: dict[int, float] = {}

    def seconds(self) -> float:
        for process in self._postmaster.children():
            with suppress(psutil.NoSuchProcess):
                self._seen[process.pid] = cpu_seconds(process)
        return sum(self._seen.values())


def cpu_seconds(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


async def folded_events(client: httpx.AsyncClient, port: int) -> int:
    try:
        exposed = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    except httpx.TransportError:
        return 0
    lines = [line for line in exposed.splitlines() if line.startswith("chat_events_folded_total")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


async def rewind_group(engines: Engines) -> None:
    """Let the trackers' group, which has no member now, begin again; the embedded broker wants a member to say so."""
    consumer = AIOKafkaConsumer(
        *(topic.name for topic in (MESSAGES, RESULTS)),
        bootstrap_servers=engines.broker["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=TRACKER_GROUP,
        enable_auto_commit=False,
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=1500,
        heartbeat_interval_ms=500,
    )
    await consumer.start()
    while len(consumer.assignment()) < len(FILLED):
        await consumer.getmany(timeout_ms=100, max_records=1)
    await consumer.commit(dict.fromkeys(FILLED, 0))
    await consumer.stop()


@contextmanager
def tracker(engines: Engines, database_url: str, name: str, port: int) -> Iterator[ChildProcess]:
    environment = {
        "PATH": os.defpath,
        **engines.broker,
        "DATABASE_URL": database_url,
        "OPS_PORT": str(port),
        "TRACKER_BATCH_RECORDS": str(BATCH_RECORDS),
    }
    command = [str(Path(sys.executable).with_name("chat-sessions")), "tracker"]
    log = engines.directory / f"{name}.log"
    child = start_process("tracker", command, environment=environment, log_path=log, reaper=engines.reaper)
    try:
        yield child
    finally:
        child.stop(30)


@contextmanager
def engines(broker: str) -> Iterator[Engines]:
    """A broker and a PostgreSQL of their own in a temporary directory, gone afterwards."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chat-sessions-bench-")))
        directory.chmod(0o711)
        reaper = start_reaper()
        stack.callback(reaper.close)
        say(f"Starting PostgreSQL and the broker ({broker})")
        postgres = start_postgres(directory, directory / "postgres.log", reaper)
        stack.callback(postgres.stop)
        postgres.run_sql("CREATE DATABASE migrated")
        if broker == "kafka":
            kafka = start_apache_kafka(directory, directory, reaper, kafka_artifacts(directory / "maven.log", reaper))
            stack.callback(kafka.stop)
            clients = {**kafka.client_settings, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
        else:
            running = start_broker(free_port(), directory / "broker.log", reaper)
            stack.callback(running.process.stop, 0)
            clients = {**EMBEDDED_BROKER_SETTINGS, "KAFKA_BOOTSTRAP_SERVERS": running.bootstrap}
        yield Engines(directory, reaper, clients, postgres)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
