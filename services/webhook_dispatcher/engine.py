"""The dispatcher's share of `chat.messages.v1`: what BatchConsumer feeds, commits and takes away."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.contracts.topics import CONTROL, MESSAGES, RESULTS
from services.runtime.records import RawRecord
from services.runtime.shutdown import Shutdown
from services.webhook_dispatcher.deliveries import Deliveries
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.partition import Partition
from services.webhook_dispatcher.spans import end_released

logger = logging.getLogger(__name__)

FOLLOWED = (RESULTS.name, CONTROL.name)
TOPICS = (MESSAGES.name, *FOLLOWED)
"""Equally partitioned, so that the Range assignor brings partition i of all three to one process."""


class Engine:
    """Works on the partitions that this process is given.

    Guarantees: messages of a conversation are called in turn; an offset is done only when the broker has acknowledged
    the result of it and of all before it; once `revoked` has returned, nothing more is begun or handed to the producer
    for those partitions.
    """

    def __init__(
        self,
        make_partition: Callable[[int, AIOKafkaConsumer], Partition],
        deliveries: Deliveries,
        metrics: DispatcherMetrics,
        shutdown: Shutdown,
        *,
        drain_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._make_partition = make_partition
        self._deliveries = deliveries
        self._metrics = metrics
        self._shutdown = shutdown
        self._drain_seconds = drain_seconds
        self._stop_seconds = stop_seconds
        self._partitions: dict[int, Partition] = {}

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: frozenset[TopicPartition]) -> None:
        """Hold everything, and learn for each partition what may not be called again."""
        consumer.pause(*partitions)
        self._partitions = {
            number: self._make_partition(number, consumer) for topic, number in partitions if topic == MESSAGES.name
        }
        self._metrics.held.clear()
        self._metrics.paused.clear()
        for partition in self._partitions.values():
            partition.open()

    async def take(self, records: Sequence[RawRecord]) -> None:
        """Begin with messages, learn from results, act on control. Returns at once: the work goes on by itself."""
        for record in records:
            if (partition := self._partitions.get(record.partition)) is None:
                continue
            if record.topic == MESSAGES.name:
                partition.take_message(record)
            elif record.topic == CONTROL.name:
                partition.take_control(record)
            else:
                partition.take_result(record)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Let running calls end within the limit, and let go of everything else."""
        leaving = [self._partitions[number] for topic, number in partitions if topic == MESSAGES.name]
        running = {task for partition in leaving for task in partition.release()}
        if running:
            await self._drain(running)
        unfinished = {task for partition in leaving for task in partition.tasks()}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        for partition in leaving:
            end_released(partition.unfinished())
        if unfinished:
            logger.warning("%d calls did not end in time; they are made again elsewhere.", len(unfinished))

    async def abandon(self) -> None:
        """Break off everything at once and publish nothing more; what is not done is done again elsewhere."""
        tasks = {task for partition in self._partitions.values() for task in partition.release()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for partition in self._partitions.values():
            end_released(partition.unfinished())

    def done(self) -> Mapping[TopicPartition, int]:
        """Return per partition the lowest offset that is not done."""
        return {
            partition.topic_partition: offset
            for partition in self._partitions.values()
            if (offset := partition.committable()) is not None
        }

    def not_ready(self) -> str | None:
        """Return why partitions do not get on, None if they do."""
        return next((fault for partition in self._partitions.values() if (fault := partition.not_ready())), None)

    def relieve(self) -> None:
        """Let go of what waits too long, and of what is too much for a persona that is stuck.

        To be called every second or so.
        """
        self._deliveries.expire()
        for partition in self._partitions.values():
            partition.relieve()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self._deliveries.measure()
        for number, partition in self._partitions.items():
            self._metrics.held.labels(str(number)).set(partition.held)
            self._metrics.paused.labels(str(number)).set(partition.paused)

    async def _drain(self, running: set[asyncio.Task[None]]) -> None:
        draining = asyncio.create_task(asyncio.wait(running))
        stopping = asyncio.create_task(self._shutdown.wait())
        if not self._shutdown.requested:
            await asyncio.wait({draining, stopping}, timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._shutdown.requested:
            await asyncio.wait({draining}, timeout=self._stop_seconds)
        stopping.cancel()
        draining.cancel()
