"""What the dispatcher's benchmarks run on: a broker, PostgreSQL, a fast webhook, and one dispatcher to be measured."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.contracts import MessageSent, encode, new_id
from services.contracts.ids import id_time
from services.contracts.topics import RESULTS
from services.database.migrate import migrate
from services.local.apache_kafka import start_apache_kafka
from services.local.broker import EMBEDDED_BROKER_SETTINGS, start_broker
from services.local.kafka_artifacts import KafkaMissingError, kafka_artifacts
from services.local.postgres import start_postgres
from services.local.processes import ChildProcess, free_port, start_process, wait_for_port
from services.local.reaper import Reaper, start_reaper
from services.runtime.kafka import build_producer, build_reader
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics

ROOT = Path(__file__).parents[2]
RUN_DISPATCHER = "import sys; from services.webhook_dispatcher.app import main; sys.exit(main())"
NGINX = """
daemon off; worker_processes 1; error_log stderr crit; pid {directory}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{ default_type application/json; return 200 '{{"reply":"ok"}}'; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Rig:
    """A broker with the system's topics, a migrated database, and where to start more."""

    broker: str
    settings: KafkaSettings
    client_settings: Mapping[str, str]
    database_url: str
    directory: Path
    reaper: Reaper

    @contextlib.contextmanager
    def process(self, name: str, *command: str, **environment: str) -> Iterator[ChildProcess]:
        """A Python process of ours, stopped in order."""
        chosen = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environment}
        log_path = self.directory / f"{name}.log"
        child = start_process(
            name, [sys.executable, *command], environment=chosen, log_path=log_path, reaper=self.reaper
        )
        try:
            yield child
            assert child.exit_code() is None, log_path.read_text()[-2000:]
        finally:
            child.stop(15)

    def dispatcher(self, **environment: str) -> contextlib.AbstractContextManager[ChildProcess]:
        """One dispatcher."""
        return self.process(
            "dispatcher",
            "-c",
            RUN_DISPATCHER,
            **self.client_settings,
            KAFKA_BOOTSTRAP_SERVERS=self.settings.kafka_bootstrap_servers,
            DATABASE_URL=self.database_url,
            EGRESS_ALLOW_CIDRS="127.0.0.0/8",
            OPS_PORT=str(free_port()),
            LOG_FORMAT="text",
            **environment,
        )

    @contextlib.contextmanager
    def webhook(self, *, answer_itself: bool = False) -> Iterator[tuple[str, str]]:
        """The address of a fast webhook, and what it is: nginx where there is one, unless it must know its calls."""
        port, nginx = free_port(), shutil.which("nginx")
        if nginx is None or answer_itself:
            with self.process("webhook", "-m", "tests.benchmarks.fast_webhook", str(port)) as child:
                wait_for_port(child, port, timeout_seconds=10)
                yield f"http://127.0.0.1:{port}", "our own on uvloop"
            return
        configuration = self.directory / "nginx.conf"
        configuration.write_text(NGINX.format(directory=self.directory, port=port))
        child = start_process(
            "nginx",
            [nginx, "-c", str(configuration)],
            environment={"PATH": os.defpath},
            log_path=self.directory / "nginx.log",
            reaper=self.reaper,
        )
        try:
            wait_for_port(child, port, timeout_seconds=10)
            yield f"http://127.0.0.1:{port}", "nginx"
        finally:
            child.stop(5)

    async def publish(self, messages: list[MessageSent]) -> None:
        """Return once every message is acknowledged."""
        producer = build_producer(self.settings)
        await producer.start()
        try:
            for start in range(0, len(messages), 2_000):
                records = [
                    encode(message, source="/chat-sessions/bench") for message in messages[start : start + 2_000]
                ]
                sent = [await producer.send(r.topic, r.value, key=r.key, headers=r.headers) for r in records]
                await asyncio.gather(*sent)
        finally:
            await producer.stop()

    @contextlib.asynccontextmanager
    async def results(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A reader of the results that are told from now on."""
        reader = build_reader(self.settings, client_id="bench")
        await reader.start()
        try:
            reader.assign([TopicPartition(RESULTS.name, number) for number in range(RESULTS.partitions)])
            await reader.seek_to_end()
            for partition in reader.assignment():
                await reader.position(partition)
            yield reader
        finally:
            await reader.stop()


@contextlib.contextmanager
def running_rig(broker: str, *, fsync: bool = False) -> Iterator[Rig]:
    """Start everything in a temporary directory. `broker` is `kafka`, `embedded`, or `auto`: Kafka where it can be."""
    reaper = start_reaper()
    with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as name, contextlib.ExitStack() as stack:
        stack.callback(reaper.close)
        directory = Path(name)
        directory.chmod(0o711)
        told, bootstrap, client_settings = _start_broker(broker, directory, reaper, stack)
        postgres = start_postgres(directory, directory / "postgres.log", reaper, {"fsync": "on" if fsync else "off"})
        stack.callback(postgres.stop)
        settings = KafkaSettings(
            kafka_bootstrap_servers=bootstrap,
            kafka_idempotence=client_settings["KAFKA_IDEMPOTENCE"] == "true",
            kafka_fetch_max_wait_ms=50,
            kafka_replication_factor=1,
        )
        asyncio.run(create_topics(settings))
        asyncio.run(migrate(postgres.url()))
        yield Rig(
            told, settings, {**client_settings, "KAFKA_FETCH_MAX_WAIT_MS": "50"}, postgres.url(), directory, reaper
        )


def _start_broker(
    broker: str, directory: Path, reaper: Reaper, stack: contextlib.ExitStack
) -> tuple[str, str, Mapping[str, str]]:
    if broker != "embedded":
        try:
            artifacts = kafka_artifacts(directory / "maven.log", reaper)
        except KafkaMissingError as missing:
            if broker == "kafka":
                raise SystemExit(str(missing)) from None
        else:
            kafka = start_apache_kafka(directory, directory, reaper, artifacts)
            stack.callback(kafka.stop)
            return "Apache Kafka", kafka.bootstrap, kafka.client_settings
    embedded = start_broker(free_port(), directory / "broker.log", reaper)
    stack.callback(embedded.process.stop, 0)
    return "embedded broker", embedded.bootstrap, EMBEDDED_BROKER_SETTINGS


def bench_messages(count: int, conversations: int, persona_id: str = "bench", prefix: str = "c") -> list[MessageSent]:
    """Messages that go round the conversations."""
    return [bench_message(f"{prefix}{number % conversations}", persona_id) for number in range(count)]


def bench_message(conversation_id: str, persona_id: str = "bench") -> MessageSent:
    session_id = new_id()
    return MessageSent(
        event_id=new_id(),
        session_id=session_id,
        conversation_id=conversation_id,
        persona_id=persona_id,
        user_id="bench",
        occurred_at=id_time(session_id),
        message="How do I get from the station to the old town, and is it open on Sundays?",
        metadata={"userAgent": "bench"},
    )


async def until_told(reader: AIOKafkaConsumer, count: int, child: ChildProcess) -> tuple[float, float]:
    """Wait for `count` results of a process; return results a second, and its CPU microseconds each.

    Counted from the first tenth on: how fast it starts is no part of it.
    """
    loop, seen, first, began, used = asyncio.get_running_loop(), 0, 0, 0.0, 0.0
    async with asyncio.timeout(120):
        while seen < count:
            batches = await reader.getmany(timeout_ms=100)
            seen += sum(len(batch) for batch in batches.values())
            if not first and seen >= count / 10:
                first, began, used = seen, loop.time(), cpu_seconds(child)
    timed = seen - first
    return timed / (loop.time() - began), (cpu_seconds(child) - used) / timed * 1e6


def cpu_seconds(child: ChildProcess) -> float:
    """What a process and those that it started have used."""
    process = psutil.Process(child.pid)
    used = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in used)


def run_json(*arguments: str, seconds: float = 120) -> bytes:
    """Run one of our modules and return what it printed."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=seconds, cwd=ROOT).stdout


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
