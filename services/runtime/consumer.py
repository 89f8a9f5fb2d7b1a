"""One member of a Kafka consumer group, on FastStream: raw batches in, committed offsets out."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from itertools import chain
from typing import Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.faults import PassingFault
from services.runtime.lag import Lags
from services.runtime.line import Line, Step
from services.runtime.raw_batches import raw_records, undecoded
from services.runtime.records import RawRecord
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown
from services.runtime.stall import watch_for_stall

logger = logging.getLogger(__name__)

COMMIT_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
STALE_SECONDS = 30.0
LEAVE_SECONDS = 5.0


class PartitionWork(Protocol):
    """What a service does with the partitions that its process is given, beside the steps that batches take."""

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: frozenset[TopicPartition]) -> None:
        """These are the process's partitions now; none of their records has been handed over yet."""

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Finish what runs, within a limit: after this returns, offsets are committed and the partitions are gone."""

    def done(self) -> Mapping[TopicPartition, int]:
        """Return per partition the offset to go on from: everything before it needs no more work."""


class BatchConsumer:
    """Feeds batches of records, in order within each partition, into the steps of a work, at least once.

    The first step gets the records, each other step what the one before it returned; different batches may be in
    different steps at the same time, in order. A step raises PassingFault to have its batch, and all behind it, begin
    again. Offsets are committed every second, when partitions are revoked, and at stop, never past what the work calls
    done. After a batch of less than `max_records`, `gather_seconds` let the next one grow.
    """

    def __init__(
        self,
        broker: KafkaBroker,
        work: PartitionWork,
        steps: Sequence[Step],
        *,
        group_id: str,
        topics: Sequence[str],
        followed: Sequence[str] = (),
        settings: KafkaSettings,
        shutdown: Shutdown,
        metrics: ConsumerMetrics,
        max_records: int = 500,
        gather_seconds: float = 0.0,
    ) -> None:
        self._work = work
        self._group_id = group_id
        self._shutdown = shutdown
        self._metrics = metrics
        self._max_records = max_records
        self._gather_seconds = gather_seconds
        self._line = Line(steps, passed=self._passed, pause=self._pause, rewind=self._rewind, broken=shutdown.fail)
        self._busy = asyncio.Lock()
        self._generation = 0
        self._ours: frozenset[TopicPartition] = frozenset()
        self._joined = False
        self._stopping = False
        self._fault: str | None = None
        self._backoff = FIRST_BACKOFF_SECONDS
        self._committed: dict[TopicPartition, int] = {}
        self._lags = Lags(followed)
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriber = broker.subscriber(
            *topics,
            batch=True,
            group_id=group_id,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=settings.kafka_session_timeout_ms,
            heartbeat_interval_ms=settings.kafka_session_timeout_ms // 3,
            rebalance_timeout_ms=settings.kafka_rebalance_timeout_ms,
            fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
            max_records=max_records,
            batch_timeout_ms=20,
            listener=_Listener(self),
            parser=undecoded,
            decoder=raw_records,
        )
        self._subscriber(self._handle)

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The running aiokafka consumer; only while started."""
        if self._subscriber.consumer is None:
            raise RuntimeError("The consumer is not running.")
        return self._subscriber.consumer

    async def start(self) -> None:
        """Begin to commit; the records flow from when the FastStream broker starts."""
        watching = watch_for_stall(self._poll_age, self._settings, self._shutdown)
        self._tasks = [asyncio.create_task(work) for work in (self._commit_regularly(), watching)]
        for task in self._tasks:
            self._shutdown.watch(task)

    async def stop(self) -> None:
        """Stop intake, let the work finish as at a revocation, commit, and leave the group.

        What does not finish in time, Kafka or PostgreSQL being away, is broken off: it is read and done again.
        """
        self._stopping = True
        consumer = self._subscriber.consumer
        for task in self._tasks:
            task.cancel()
        if consumer is not None:
            async with self._busy:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._line.empty(), LEAVE_SECONDS)
                await self._line.abandon()
                # In the midst of a rebalance none are: they were given back in order before.
                if self._ours and self._shutdown.exit_code == 0:
                    await self._work.revoked(self._ours)
                    await self._unless_kafka_is_away(self._commit(consumer))
        await self._unless_kafka_is_away(self._subscriber.stop())

    def not_ready(self) -> str | None:
        """Return why this consumer cannot work at the moment, None if it can."""
        consumer = self._subscriber.consumer
        if consumer is None or not self._joined:
            return f"The consumer has not joined its group {self._group_id} yet."
        if self._fault is not None:
            return self._fault
        age = self._poll_age()
        if age is not None and age > STALE_SECONDS:
            return f"The consumer has not heard from Kafka for {age:.0f} s."
        return None

    async def _handle(self, message: KafkaMessage) -> None:
        records: Sequence[RawRecord] = message.raw_message  # type: ignore[assignment]
        generation = self._generation
        async with self._busy:
            # Records of an assignment that has ended in the meantime are read again by whoever has it now.
            if self._stopping or self._shutdown.requested or generation != self._generation or not self._ours:
                return
            self._lags.read(records)
            self._line.enter(records)
        if len(records) < self._max_records:
            await self._line.empty()
            await asyncio.sleep(self._gather_seconds)
        else:
            await self._line.room()

    def _passed(self) -> None:
        self._fault, self._backoff = None, FIRST_BACKOFF_SECONDS

    async def _pause(self, fault: PassingFault) -> None:
        if self._fault is None:
            logger.warning("%s Trying again until it passes.", fault)
        self._fault = str(fault)
        self._metrics.retried_batches.labels(self._group_id).inc()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._shutdown.wait(), self._backoff)
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _rewind(self, batches: Sequence[Sequence[RawRecord]]) -> None:
        first: dict[TopicPartition, int] = {}
        for record in chain.from_iterable(batches):
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for partition, offset in first.items():
            with contextlib.suppress(IllegalStateError):  # no longer ours
                self.consumer.seek(partition, offset)

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Let the work finish, commit, and take no more records of these partitions."""
        self._generation += 1
        async with self._busy:
            await self._line.empty()
            consumer = self._subscriber.consumer
            if consumer is None or self._stopping or not partitions:
                return
            await self._work.revoked(partitions)
            await self._commit(consumer)
            self._ours = frozenset()

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Hand the new partitions to the work before any of their records."""
        self._generation += 1
        # Until the work knows its partitions, records wait, and what it calls done is of the time before.
        async with self._busy:
            if self._stopping:
                return
            await self._work.assigned(self.consumer, partitions)
            self._committed = {}
            self._ours = partitions
            self._lags.begin(partitions, time.time())
            # The batch that met the fault may be another process's now: nothing here would ever clear it.
            self._fault, self._backoff = None, FIRST_BACKOFF_SECONDS
        self._joined = True
        logger.info("Group %s gave this process %d partitions.", self._group_id, len(partitions))

    def bug(self, error: Exception) -> None:
        """Stop the process: a rebalance callback failed, and aiokafka would only log it."""
        self._shutdown.fail(error)

    async def _unless_kafka_is_away(self, leaving: Coroutine[object, object, None]) -> None:
        """Do this last thing, though not for ever as aiokafka would; what was not committed is read again."""
        task = asyncio.create_task(leaving)
        await asyncio.wait([task], timeout=LEAVE_SECONDS)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, asyncio.CancelledError):  # aiokafka's stop can end so by itself, too
            logger.warning("The consumer could not leave %s in order: Kafka does not answer.", self._group_id)
        elif outcome is not None:
            raise outcome

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            if (consumer := self._subscriber.consumer) is not None and self._joined:
                self._stop_if_reading_broke()
                await self._commit(consumer)
                self._measure(consumer)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        due = {
            partition: offset
            for partition, offset in self._work.done().items()
            if partition in self._ours and self._committed.get(partition) != offset
        }
        if not due or self._shutdown.exit_code != 0:
            return
        try:
            await consumer.commit(due)
        except (CommitFailedError, IllegalStateError):
            logger.info("The group %s moved on before %d offsets were committed.", self._group_id, len(due))
        except KafkaError as error:
            self._metrics.failed_commits.labels(self._group_id).inc()
            logger.warning("Offsets of %s could not be committed, trying again: %r", self._group_id, error)
        else:
            self._committed.update(due)

    def _stop_if_reading_broke(self) -> None:
        # FastStream would start reading again, but records that aiokafka had already taken from its buffer are gone
        # from this process: going on would commit past them.
        for task in self._subscriber.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self._shutdown.fail(error)

    def _measure(self, consumer: AIOKafkaConsumer) -> None:
        ends = {p: end for p in consumer.assignment() if (end := consumer.highwater(p)) is not None}
        lags = self._lags.measure({**self._committed, **self._work.done()}, ends, time.time())
        self._metrics.show_lag(self._group_id, lags)
        age = self._poll_age()
        self._metrics.last_poll_age.labels(self._group_id).set(0.0 if age is None else age)

    def _poll_age(self) -> float | None:
        """Return the seconds since Kafka last answered a fetch; None where there is nothing to fetch."""
        consumer = self._subscriber.consumer
        if consumer is None:
            return None
        fetching = consumer.assignment() - consumer.paused()
        polls = [poll for partition in fetching if (poll := consumer.last_poll_timestamp(partition)) is not None]
        return max(0.0, time.time() - max(polls) / 1000) if polls else None


class _Listener(ConsumerRebalanceListener):
    def __init__(self, consumer: BatchConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        try:
            await self._consumer.on_revoked(frozenset(revoked))
        except Exception as error:
            self._consumer.bug(error)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        try:
            await self._consumer.on_assigned(frozenset(assigned))
        except Exception as error:
            self._consumer.bug(error)
