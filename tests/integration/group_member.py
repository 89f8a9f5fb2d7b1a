"""A member of a consumer group, and a work that holds the consumer to its promises."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.kafka import build_broker
from services.runtime.offsets import DoneOffsets
from services.runtime.records import RawRecord
from services.runtime.shutdown import Shutdown
from tests.integration.kafka_log import settings_for

Trouble = Callable[[Sequence[RawRecord]], None]


class Ledger:
    """A PartitionWork that writes down what it is given and holds the consumer to its promises."""

    def __init__(self) -> None:
        self.taken: list[RawRecord] = []
        self.ours: frozenset[TopicPartition] = frozenset()
        self.told = False
        self.offsets = DoneOffsets()
        self.done_calls = 0
        self.trouble: Trouble = lambda records: None
        self.on_assigned: Callable[[], Awaitable[None]] | None = None
        self.done_before = 1 << 62

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: frozenset[TopicPartition]) -> None:
        if self.on_assigned is not None:
            await self.on_assigned()
        self.offsets.clear()
        self.ours, self.told = partitions, True

    async def take(self, records: Sequence[RawRecord]) -> None:
        assert records, "an empty batch was handed over"
        assert self.told, "records were handed over before the partitions, or after their revocation"
        assert {TopicPartition(r.topic, r.partition) for r in records} <= self.ours
        self.trouble(records)
        self.taken += records
        self.offsets.add([r for r in records if r.offset < self.done_before])

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        assert partitions == self.ours
        self.told = False

    def done(self) -> Mapping[TopicPartition, int]:
        self.done_calls += 1
        return self.offsets.next()

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.taken]


class Member:
    """What a process has of a consumer group."""

    def __init__(self, bootstrap: str, group_id: str, topics: Sequence[str], work: Ledger) -> None:
        settings = settings_for(bootstrap)
        self.shutdown = Shutdown()
        self.registry = CollectorRegistry()
        self.broker = build_broker(settings)
        self.work = work
        self.consumer = BatchConsumer(
            self.broker,
            work,
            [work.take],
            group_id=group_id,
            topics=topics,
            settings=settings,
            shutdown=self.shutdown,
            metrics=ConsumerMetrics(self.registry),
        )

    async def stop(self) -> None:
        await self.consumer.stop()
        await self.broker.stop()

    def measured(self, name: str, labels: dict[str, str]) -> float | None:
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def member(bootstrap: str, group_id: str, topics: Sequence[str], work: Ledger) -> AsyncIterator[Member]:
    running = Member(bootstrap, group_id, topics, work)
    await running.broker.start()
    await running.consumer.start()
    try:
        yield running
    finally:
        await running.stop()
