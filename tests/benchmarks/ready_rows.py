"""What the fold wrote, taken down as statements with ready-made arrays, and written again without Kafka or folding."""

import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from services.contracts.topics import TRACKER_GROUP
from services.database.engine import asyncpg_url, build_engine
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.session_tracker.tracker import Tracker

Step = tuple[str, Sequence[Any]]
Transaction = list[Step]
COPIED_TABLES = ("chat_sessions", "messages", "session_events", "conversations")


class _Noting:
    """A driver's connection that notes down every statement with its arrays."""

    def __init__(self, driver: Any, steps: Transaction) -> None:
        self._driver = driver
        self._steps = steps

    async def fetch(self, query: str, *arrays: Any) -> Any:
        self._steps.append((query, arrays))
        return await self._driver.fetch(query, *arrays)

    async def execute(self, query: str, *arrays: Any) -> Any:
        self._steps.append((query, arrays))
        return await self._driver.execute(query, *arrays)


class NotingStore(SessionStore):
    """Folds as the tracker does, and keeps every transaction that wrote."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.transactions: list[Transaction] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        steps: Transaction = []
        async with super().transaction() as driver:
            yield _Noting(driver, steps)
        self.transactions.append(steps)


async def noted(
    consumer: AIOKafkaConsumer,
    producer: AIOKafkaProducer,
    database_url: str,
    partitions: Sequence[TopicPartition],
    *,
    events: int,
    batch_records: int,
) -> list[Transaction]:
    """Fold the first `events` events of the partitions into a database; return what was written, batch by batch."""
    engine = build_engine(database_url)
    store, metrics = NotingStore(engine), ConsumerMetrics(registry := CollectorRegistry())
    letters = DeadLetters(producer, TRACKER_GROUP, metrics)
    tracker = Tracker(store, Months(engine), producer, letters, TrackerMetrics(registry), metrics)
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    taken = 0
    while taken < events:
        found = await consumer.getmany(timeout_ms=1000, max_records=batch_records)
        records = [record for batch in found.values() for record in batch]
        if records:
            await tracker.tell(await tracker.fold(await tracker.read(records)))
        taken += len(records)
    await engine.dispose()
    return store.transactions


async def seconds_to_write(transactions: Sequence[Transaction], database_url: str) -> float:
    """Write the same rows by the same statements, a transaction a batch, and return how long it took."""
    engine = build_engine(database_url)
    store = SessionStore(engine)
    await Months(engine).make_ahead(datetime.now(UTC))
    async with store.transaction() as driver:
        await driver.fetch("SELECT 1")
    began = time.perf_counter()
    for steps in transactions:
        async with store.transaction() as driver:
            for query, arrays in steps:
                await driver.fetch(query, *arrays)
    seconds = time.perf_counter() - began
    await engine.dispose()
    return seconds


async def seconds_to_copy(written: str, empty: str) -> float:
    """COPY the rows of one database into another, in one transaction a table, and return how long that took."""
    engine = build_engine(empty)
    await Months(engine).make_ahead(datetime.now(UTC))
    await engine.dispose()
    source, target = await asyncpg.connect(asyncpg_url(written)), await asyncpg.connect(asyncpg_url(empty))
    seconds = 0.0
    for table in COPIED_TABLES:
        rows = io.BytesIO()
        await source.copy_from_query(f"SELECT * FROM {table}", output=rows, format="binary")
        rows.seek(0)
        began = time.perf_counter()
        await target.copy_to_table(table, source=rows, format="binary")
        seconds += time.perf_counter() - began
    await source.close()
    await target.close()
    return seconds
