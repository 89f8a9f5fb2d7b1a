"""Consumes every event and keeps the sessions' state: decode, fold, tell, and only then let Kafka forget."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import murmur2

from services.contracts import BadRecord, NotAdmitted, admit, decode
from services.contracts.events import ErasureRequested, ReplyDelta, SessionChanged, TimeoutSweep, TrackedEvent
from services.contracts.topics import PARTITIONS, TRACKER_GROUP
from services.database.partitions import DroppedMonth
from services.runtime.consumer import RawRecord
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetter, DeadLetters, meant_for_another_group
from services.runtime.offsets import DoneOffsets
from services.session_tracker.changes import publish_changes
from services.session_tracker.faults import RefusedByPostgres
from services.session_tracker.fold import Arrival
from services.session_tracker.lifecycle import Session
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.progress import IdleProgress, Progress, batch_progress
from services.session_tracker.store import Committed, SessionStore

logger = logging.getLogger(__name__)

_MISMATCH = NotAdmitted("identity-mismatch", "Its session belongs to another conversation, persona or user.")


class Tracker:
    """The work of the group `session-tracker` on its partitions (services.runtime.consumer.PartitionWork)."""

    def __init__(
        self,
        store: SessionStore,
        months: Months,
        producer: AIOKafkaProducer,
        dead_letters: DeadLetters,
        metrics: TrackerMetrics,
        consumer_metrics: ConsumerMetrics,
    ) -> None:
        self._store = store
        self._months = months
        self._producer = producer
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._consumer_metrics = consumer_metrics
        self._done = DoneOffsets()
        self._idle = IdleProgress()

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: frozenset[TopicPartition]) -> None:
        """Begin anew: offsets count from what the group has committed."""
        self._done.clear()
        self._idle.clear()

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Nothing runs between batches."""

    def done(self) -> Mapping[TopicPartition, int]:
        """Return the offsets behind the last batch whose changes are committed and told."""
        return self._done.next()

    async def idle_progress(self, consumer: AIOKafkaConsumer) -> Progress:
        """Return how far the partitions are folded of which every record is done. Raises KafkaError."""
        return await self._idle.at_the_end(consumer, self.done())

    async def take(self, records: Sequence[RawRecord]) -> None:
        """Fold a batch. When this returns, PostgreSQL has it, and Kafka its changes and dead letters."""
        began = time.perf_counter()
        letters: list[DeadLetter] = []
        arrivals = [
            arrival
            for arrival in self._arrivals(records, datetime.now(UTC), letters)
            if await self._kept(arrival, records, letters)
        ]
        committed = await self._fold(arrivals, records, batch_progress(records, datetime.now(UTC)), letters)
        letters.extend(DeadLetter(records[arrival.position], _MISMATCH) for one in committed for arrival in one.refused)
        await self._tell(arrivals, committed)
        if letters:
            await self._dead_letters.publish(letters)
        self._done.add(records)
        self._measure(len(records), committed, time.perf_counter() - began)

    def _arrivals(self, records: Sequence[RawRecord], now: datetime, letters: list[DeadLetter]) -> Iterator[Arrival]:
        """Yield the events that may be folded; the others become letters."""
        for position, record in enumerate(records):
            if meant_for_another_group(record, TRACKER_GROUP):
                continue
            try:
                event = _tracked(record, now)
            except BadRecord as cause:
                letters.append(DeadLetter(record, cause))
                continue
            if record.partition != _partition_of(event.conversation_id):
                self._consumer_metrics.misplaced.labels(TRACKER_GROUP, record.topic).inc()
                logger.warning("A record of %s is on partition %d, not its key's.", record.topic, record.partition)
            yield Arrival(event, _timestamp(record), record.partition, position)

    async def _kept(self, arrival: Arrival, records: Sequence[RawRecord], letters: list[DeadLetter]) -> bool:
        """Make sure that the session's month has its partitions; False where retention has dropped it."""
        try:
            await self._months.ensure(arrival.event.session_id)
        except DroppedMonth as dropped:
            letters.append(DeadLetter(records[arrival.position], NotAdmitted("dropped-month", str(dropped))))
            return False
        return True

    async def _fold(
        self, arrivals: Sequence[Arrival], records: Sequence[RawRecord], progress: Progress, letters: list[DeadLetter]
    ) -> list[Committed]:
        """Fold in one transaction; where PostgreSQL refuses the content, in halves, down to the event to blame."""
        try:
            return [await self._store.fold(arrivals, progress)]
        except RefusedByPostgres as refusal:
            if not arrivals:
                raise
            if len(arrivals) == 1:
                cause = NotAdmitted("refused-by-postgres", str(refusal))
                letters.append(DeadLetter(records[arrivals[0].position], cause))
                return [await self._store.fold([], progress)]
        middle = len(arrivals) // 2
        first = await self._fold(arrivals[:middle], records, {}, letters)
        return first + await self._fold(arrivals[middle:], records, progress, letters)

    async def _tell(self, arrivals: Sequence[Arrival], committed: Sequence[Committed]) -> None:
        """Publish every session that the batch names, also where its events were known: a crash may have hidden it."""
        changes = {
            transition.session.session_id: (transition.session, transition.previous)
            for one in committed
            for transition in one.transitions
        }
        named = {arrival.event.session_id for arrival in arrivals} - changes.keys()
        known: list[Session] = await self._store.read(named) if named else []
        await publish_changes(self._producer, [*changes.values(), *((session, None) for session in known)])

    def _measure(self, records: int, committed: Sequence[Committed], seconds: float) -> None:
        for one in committed:
            self._metrics.count(one.transitions)
            self._metrics.events.labels("applied").inc(one.events - one.late - len(one.refused))
            self._metrics.events.labels("late").inc(one.late)
        self._metrics.batch_records.observe(records)
        self._metrics.fold_seconds.observe(seconds)


def _tracked(record: RawRecord, now: datetime) -> TrackedEvent:
    """Return the event of a record that the tracker folds; raise BadRecord where there is none."""
    event = decode(record.topic, record.headers, record.value)
    admit(event, now)
    if isinstance(event, ErasureRequested):
        raise NotAdmitted("unsupported", "Erasure is not applied by this version; replay it to one that does.")
    if isinstance(event, TimeoutSweep | SessionChanged | ReplyDelta):
        raise NotAdmitted("wrong-topic", f"{event.ce_type} is not for the tracker's fold.")
    return event


def _timestamp(record: RawRecord) -> datetime:
    return datetime.fromtimestamp(record.timestamp / 1000, UTC)


@lru_cache(maxsize=65_536)
def _partition_of(conversation_id: str) -> int:
    # As the Java client and aiokafka place a key.
    return int(murmur2(conversation_id.encode()) & 0x7FFFFFFF) % PARTITIONS
