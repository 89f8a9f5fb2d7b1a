"""`make bench-sweep`: how fast the fold is while a sweep ends 200,000 sessions, beside how fast it is alone.

Fold and sweep share one event loop and one PostgreSQL, as in a tracker: records are decoded, folded and told from
ready-made batches, alone, then beside the sweep, then alone again. The last line is the rate beside the sweep over the
mean of the other two.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import uvloop
from prometheus_client import CollectorRegistry

from services.contracts import Event, encode
from services.contracts.topics import SWEEPS_GROUP, TRACKER_GROUP
from services.database.engine import asyncpg_url, build_engine
from services.database.migrate import migrate
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.runtime.kafka import build_producer
from services.runtime.placement import partition_of
from services.runtime.records import RawRecord
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown
from services.runtime.topics import create_topics
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.sweeps import Sweeps
from services.session_tracker.tracker import Tracker
from services.session_tracker.untold import UntoldChunks
from tests.benchmarks.databases import running, say
from tests.benchmarks.seeding import Seed, seed
from tests.integration.tracker_process import TRACKER_PARTITIONS
from tests.sample_events import SessionEvents, sweep

BATCH = 1_000
SOURCE = "/chat-sessions/bench"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200_000, help="that the sweep times out")
    parser.add_argument("--events", type=int, default=60_000, help="folded alone, beside the sweep, and alone again")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as name,
        running(Path(name)) as (postgres, kafka, _),
    ):
        url = postgres.url()
        await migrate(url)
        await seed(url, Seed(options.sessions, datetime.now(UTC) - timedelta(days=2), days=1, active=True))
        say(f"Seeded {options.sessions:,} sessions without activity")
        settings = KafkaSettings(kafka_bootstrap_servers=kafka, kafka_idempotence=False, kafka_replication_factor=1)
        await create_topics(settings)
        return await compared(settings, url, options)


async def compared(settings: KafkaSettings, url: str, options: argparse.Namespace) -> int:
    engine, producer, registry = build_engine(url, pool_size=8), build_producer(settings), CollectorRegistry()
    await producer.start()
    store, metrics, shared = SessionStore(engine), TrackerMetrics(registry), ConsumerMetrics(registry)
    tracker = Tracker(store, Months(engine), producer, DeadLetters(producer, TRACKER_GROUP, shared), metrics, shared)
    letters = DeadLetters(producer, SWEEPS_GROUP, shared)
    untold = UntoldChunks(store, producer)
    sweeps = Sweeps(SweepStore(engine, store), untold, letters, metrics, Shutdown(), timeout_hours=24)
    one = sweep()
    await store.move_progress({(p.topic, p.partition): one.as_of for p in TRACKER_PARTITIONS})
    lots = [list(batches(options.events)) for _ in range(4)]
    await folded(tracker, lots[0])
    first = await folded(tracker, lots[1])
    began = time.perf_counter()
    sweeping = asyncio.create_task(sweeps.run(one))
    beside = await folded(tracker, lots[2])
    if sweeping.done():
        raise SystemExit("The sweep was over before the fold: give it more sessions.")
    await sweeping
    took = time.perf_counter() - began
    last = await folded(tracker, lots[3])
    connection = await asyncpg.connect(asyncpg_url(url))
    left = await connection.fetchval("SELECT count(*) FROM chat_sessions WHERE \"errorMessage\" LIKE 'No activity%'")
    await connection.close()
    await producer.stop()
    await engine.dispose()
    print(f"fold alone        {first:8,.0f} events/s, afterwards {last:,.0f}")
    print(f"beside the sweep  {beside:8,.0f} events/s")
    print(f"sweep             {left:8,} sessions timed out in {took:.0f} s")
    print(f"sweep ratio {beside / ((first + last) / 2):.2f}")
    return 0


def batches(events: int) -> Iterator[list[RawRecord]]:
    """Yield batches of records as a consumer takes them: messages, then their replies."""
    for _ in range(events // BATCH // 2):
        sessions = [SessionEvents(conversation=f"c{n % 200}", user=f"u{n % 50}") for n in range(BATCH)]
        yield [record(one.sent()) for one in sessions]
        yield [record(one.succeeded()) for one in sessions]


def record(event: Event) -> RawRecord:
    encoded = encode(event, source=SOURCE)
    partition = partition_of(event.conversation_id)
    stamped, sizes = int(event.occurred_at.timestamp() * 1000), (len(encoded.key), len(encoded.value))
    return RawRecord(
        encoded.topic, partition, 0, stamped, 0, encoded.key, encoded.value, None, *sizes, tuple(encoded.headers)
    )


async def folded(tracker: Tracker, lot: list[list[RawRecord]]) -> float:
    """Fold the batches; return events per second."""
    began = time.perf_counter()
    for batch in lot:
        await tracker.tell(await tracker.fold(await tracker.read(batch)))
    return sum(map(len, lot)) / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
