"""Consumes every event and keeps the sessions' state: decode, fold, tell, and only then let Kafka forget."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import UUID

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from services.contracts import BadRecord, NotAdmitted, admit, decode
from services.contracts.codec import header
from services.contracts.events import (
    ErasureRequested,
    MessageSent,
    ReplyDelta,
    SessionChanged,
    TimeoutSweep,
    TrackedEvent,
)
from services.contracts.ids import id_milliseconds
from services.contracts.topics import TRACKER_GROUP
from services.database.partitions import DroppedMonth
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetter, DeadLetters, about_record, meant_for_another_group
from services.runtime.offsets import DoneOffsets
from services.runtime.placement import partition_of
from services.runtime.pseudonyms import is_erased
from services.runtime.records import RawRecord, written_at
from services.runtime.spans import folding, sending_batch, writing
from services.runtime.tracing import NOT_RECORDED, Span, Tracer, ended_by_errors, trace_id_of
from services.session_tracker.changes import publish_changes
from services.session_tracker.faults import RefusedByPostgres
from services.session_tracker.fold import Arrival
from services.session_tracker.lifecycle import Session
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.personal import foldable
from services.session_tracker.progress import IdleProgress, Progress, batch_progress
from services.session_tracker.store import Committed, SessionStore

logger = logging.getLogger(__name__)

_MISMATCH = NotAdmitted("identity-mismatch", "Its session belongs to another conversation, persona or user.")

SLICE = 50
"""Records between two looks at what else waits, such as PostgreSQL's answer to the batch before."""


@dataclass
class Batch:
    """A batch on its way through the tracker's steps, with what each found out."""

    records: Sequence[RawRecord]
    progress: Progress
    arrivals: list[Arrival] = field(default_factory=list)
    erasures: list[ErasureRequested] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    committed: Sequence[Committed] = ()
    began: float = 0.0
    traces: list[str] = field(default_factory=list)
    """Where its messages come from; empty while nobody records it."""
    span: Span = NOT_RECORDED

    def refuse(self, arrival: Arrival, cause: BadRecord) -> None:
        """Put the arrival's record among the dead letters."""
        self.letters.append(DeadLetter(self.records[arrival.position], cause))

    def traceparent_of(self, session_id: UUID) -> str | None:
        """Return the trace of a session, as the batch's last event of it has it."""
        position = self._positions.get(session_id)
        return None if position is None else header(self.records[position].headers, "traceparent")

    @cached_property
    def _positions(self) -> Mapping[UUID, int]:
        return {arrival.event.session_id: arrival.position for arrival in self.arrivals}


class Tracker:
    """The work of the group `session-tracker` on its partitions (services.runtime.consumer.PartitionWork).

    A batch is read, folded and told.
    """

    def __init__(
        self,
        store: SessionStore,
        months: Months,
        producer: AIOKafkaProducer,
        dead_letters: DeadLetters,
        metrics: TrackerMetrics,
        consumer_metrics: ConsumerMetrics,
        tracer: Tracer | None = None,
        *,
        anonymize_days: int = 0,
    ) -> None:
        self._store = store
        self._months = months
        self._producer = producer
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._consumer_metrics = consumer_metrics
        self._tracer = tracer
        self._keep_personal = timedelta(days=anonymize_days) if anonymize_days else None
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

    async def read(self, records: Sequence[RawRecord]) -> Batch:
        """Decode a batch, while PostgreSQL works on the one before."""
        now = datetime.now(UTC)
        batch = Batch(records, batch_progress(records, now))
        for position, record in enumerate(records):
            try:
                self._take(record, position, now, batch)
            except BadRecord as cause:
                batch.letters.append(DeadLetter(record, cause))
            if position % SLICE == 0:
                await asyncio.sleep(0)
        return batch

    async def fold(self, batch: Batch) -> Batch:
        """Fold a batch: when this returns, PostgreSQL has it."""
        batch.began = time.perf_counter()
        if self._tracer is not None:
            batch.span = folding(self._tracer, TRACKER_GROUP, len(batch.records), batch.traces)
        with ended_by_errors(batch.span):
            await self._write(batch)
        return batch

    async def _write(self, batch: Batch) -> None:
        if batch.erasures:
            await self._store.begin_erasures(batch.erasures)
        batch.arrivals = await self._kept(batch, batch.arrivals)
        span = writing(self._tracer, "chat_sessions", len(batch.arrivals), batch.span.traceparent)
        with ended_by_errors(span):
            batch.committed = await self._fold(batch, batch.arrivals, batch.progress)
        span.end()
        for one in batch.committed:
            for arrival in one.refused:
                batch.refuse(arrival, _MISMATCH)

    async def tell(self, batch: Batch) -> None:
        """Tell what a batch changed: when this returns, Kafka has its changes and dead letters, and it is done."""
        with ended_by_errors(batch.span):
            await self._tell(batch)
            if batch.letters:
                await self._dead_letters.publish(batch.letters)
        batch.span.end()
        self._done.add(batch.records)
        self._measure(batch, time.perf_counter() - batch.began)

    def _take(self, record: RawRecord, position: int, now: datetime, batch: Batch) -> None:
        """Add the record's event to the batch, unless it is another group's; raise BadRecord where it may not be."""
        if meant_for_another_group(record, TRACKER_GROUP):
            return
        event = _tracked(record, now)
        if record.partition != partition_of(event.conversation_id):
            self._consumer_metrics.misplaced.labels(TRACKER_GROUP, record.topic).inc()
            told = about_record(record)
            logger.warning(
                "A record of %s is on partition %d, not its key's.", record.topic, record.partition, extra=told
            )
        # Of the others only who records the fold needs it: it says where a session began.
        sent = type(event) is MessageSent
        traceparent = header(record.headers, "traceparent") if sent or self._tracer is not None else None
        if self._tracer is not None and traceparent is not None:
            batch.traces.append(traceparent)
        if isinstance(event, ErasureRequested):
            batch.erasures.append(event)
            return
        event = foldable(event, now, self._keep_personal)
        trace_id = trace_id_of(traceparent) if sent else None
        batch.arrivals.append(Arrival(event, written_at(record), record.partition, position, trace_id=trace_id))

    async def _kept(self, batch: Batch, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Make sure that the sessions' months have their partitions; refuse those that retention has dropped."""
        # No hour is in two months, and a batch has few hours.
        hours = {_hour(arrival): arrival.event.session_id for arrival in arrivals}
        dropped: dict[int, NotAdmitted] = {}
        for hour, session_id in hours.items():
            try:
                await self._months.ensure(session_id)
            except DroppedMonth as cause:
                dropped[hour] = NotAdmitted("dropped-month", str(cause))
        if not dropped:
            return [*arrivals]
        gone = [arrival for arrival in arrivals if _hour(arrival) in dropped]
        for arrival in gone:
            batch.refuse(arrival, dropped[_hour(arrival)])
        return [arrival for arrival in arrivals if _hour(arrival) not in dropped]

    async def _fold(self, batch: Batch, arrivals: Sequence[Arrival], progress: Progress) -> list[Committed]:
        """Fold in one transaction; where PostgreSQL refuses the content, in halves, down to the event to blame."""
        try:
            return [await self._store.fold(arrivals, progress)]
        except RefusedByPostgres as refusal:
            if not arrivals:
                raise
            self._months.forget()
            kept = await self._kept(batch, arrivals)
            if len(kept) < len(arrivals):
                return await self._fold(batch, kept, progress)
            if len(arrivals) == 1:
                batch.refuse(arrivals[0], NotAdmitted("refused-by-postgres", str(refusal)))
                return [await self._store.fold([], progress)]
        middle = len(arrivals) // 2
        first = await self._fold(batch, arrivals[:middle], {})
        return first + await self._fold(batch, arrivals[middle:], progress)

    async def _tell(self, batch: Batch) -> None:
        """Publish every session that the batch names, also where its events were known: a crash may have hidden it."""
        changes = {
            transition.session.session_id: (transition.session, transition.previous)
            for one in batch.committed
            for transition in one.transitions
        }
        named = {arrival.event.session_id for arrival in batch.arrivals} - changes.keys()
        known: list[Session] = await self._store.read(named) if named else []
        told = [*changes.values(), *((session, None) for session in known)]
        span = sending_batch(self._tracer, SessionChanged.topic.name, len(told), batch.span.traceparent)
        with ended_by_errors(span):
            await publish_changes(self._producer, told)
        span.end()

    def _measure(self, batch: Batch, seconds: float) -> None:
        for one in batch.committed:
            self._metrics.count(one.transitions, batch.traceparent_of)
            self._metrics.events.labels("applied").inc(one.events - one.late - len(one.refused))
            self._metrics.events.labels("late").inc(one.late)
        self._metrics.batch_records.observe(len(batch.records))
        self._metrics.fold_seconds.observe(seconds)


def _tracked(record: RawRecord, now: datetime) -> TrackedEvent | ErasureRequested:
    """Return the event of a record that the tracker applies; raise BadRecord where there is none."""
    event = decode(record.topic, record.headers, record.value)
    admit(event, now)
    if isinstance(event, ErasureRequested) and is_erased(event.user_id):
        raise NotAdmitted("erased-user", "userId is what stands for a user whose data was erased.")
    if isinstance(event, TimeoutSweep | SessionChanged | ReplyDelta):
        raise NotAdmitted("wrong-topic", f"{event.ce_type} is not for the tracker's fold.")
    return event


def _hour(arrival: Arrival) -> int:
    return id_milliseconds(arrival.event.session_id) // 3_600_000
