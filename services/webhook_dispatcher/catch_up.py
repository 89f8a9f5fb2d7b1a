"""What may not be called again, learnt from Kafka: Postgres lags behind what this process must know."""

import asyncio
import contextlib
import logging
import time
from datetime import datetime
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from services.contracts import BadRecord, CancelRequested, WebhookAttempted, WebhookFailed, WebhookSucceeded, admit
from services.contracts.admission import CLOCK_SKEW
from services.contracts.codec import decode, header, session_id_of
from services.contracts.events import Identity
from services.contracts.session import AttemptOutcome
from services.contracts.topics import CONTROL, MESSAGES, RESULTS
from services.runtime.records import RawRecord
from services.webhook_dispatcher.results import SOURCE

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
SETTLED_SECONDS = 2.0
"""How long a position at the end must stand until it counts although the records before it never came."""

_CLOCK_SKEW_MS = int(CLOCK_SKEW.total_seconds() * 1000)
_TERMINAL = frozenset({WebhookSucceeded.ce_type, WebhookFailed.ce_type})


class CatchUp:
    """Reads results and control of one partition again, through the group's own consumer.

    Both are paused until the first `read`. Afterwards control flows on; results flow only while reading.
    """

    def __init__(self, consumer: AIOKafkaConsumer, partition: int) -> None:
        self._consumer = consumer
        self._messages = TopicPartition(MESSAGES.name, partition)
        self._results = TopicPartition(RESULTS.name, partition)
        self._control = TopicPartition(CONTROL.name, partition)
        self._handled: dict[TopicPartition, int] = {}
        self._progress = asyncio.Event()
        self.fault: str | None = None
        """Why reading does not get on, None if it does."""

    async def has_backlog(self) -> bool:
        """Tell whether messages wait that the group has not finished.

        A broker that tells the end of a log too low makes this False; `read` then is done again for old messages.
        """
        while True:
            try:
                ends = await self._consumer.end_offsets([self._messages])
                position: int = await self._consumer.position(self._messages)
            except KafkaError as error:
                await self._wait_out(error)
            else:
                self.fault = None
                return position < int(ends[self._messages])

    async def read(self, from_ms: int) -> None:
        """Return once every record from 5 minutes before `from_ms` to the present ends was handed over."""
        while True:
            try:
                await self._seek(max(0, from_ms - _CLOCK_SKEW_MS))
            except KafkaError as error:
                await self._wait_out(error)
            else:
                self.fault = None
                break
        both = [self._results, self._control]
        polled = {partition: self._consumer.last_poll_timestamp(partition) for partition in both}
        self._consumer.resume(*both)
        for partition in both:
            await self._until_handled(partition, polled[partition])
        self._consumer.pause(self._results)

    def handled(self, record: RawRecord) -> None:
        """Note that a record of results or control was dealt with."""
        self._handled[TopicPartition(record.topic, record.partition)] = record.offset + 1
        self._progress.set()

    async def _seek(self, from_ms: int) -> None:
        both = [self._results, self._control]
        # The ends are asked for first: what is written in between lies behind them and is read as well.
        ends = await self._consumer.end_offsets(both)
        starts = await self._consumer.offsets_for_times(dict.fromkeys(both, from_ms))
        for partition in both:
            start = starts[partition]
            self._handled[partition] = ends[partition] if start is None else start.offset
            self._consumer.seek(partition, self._handled[partition])

    async def _until_handled(self, partition: TopicPartition, polled_before: int | None) -> None:
        """Return when everything was handed over that was there at the first fetch from the new position.

        That fetch tells the end of the log; the embedded broker's answer to the question for it is too low.
        """
        while self._consumer.last_poll_timestamp(partition) == polled_before:
            await self._step()
        end = self._consumer.highwater(partition)
        settled_at: float | None = None
        while True:
            # Both are asked: what was fetched before the seek may be handed over after it, and lies at the end.
            if await self._consumer.position(partition) < end:
                settled_at = None
            elif self._handled[partition] >= end:
                return
            # Records at the end may be gone (retention): then the position gets there and nothing is handed over.
            elif settled_at is None:
                settled_at = time.monotonic()
            elif time.monotonic() - settled_at > SETTLED_SECONDS:
                return
            await self._step()

    async def _step(self) -> None:
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await self._progress.wait()

    async def _wait_out(self, error: KafkaError) -> None:
        if self.fault is None:
            logger.warning("What is known of partition %d cannot be read yet: %r", self._messages.partition, error)
        self.fault = f"Kafka does not tell what is known of partition {self._messages.partition}."
        await asyncio.sleep(RETRY_SECONDS)


def ended_session(record: RawRecord, now: datetime) -> tuple[UUID, Identity | None] | None:
    """Return the session that a record of results says needs no more call, None for all other records.

    With it whose it must be, unless a dispatcher wrote the record: then the headers are enough, and a partition may
    hold a week of them. What may not be admitted the tracker dead-letters, so that session goes on.
    """
    ce_type, subject = header(record.headers, "ce_type"), session_id_of(record.headers)
    if ce_type in _TERMINAL and subject is not None and header(record.headers, "ce_source") == SOURCE:
        return subject, None
    if ce_type == WebhookAttempted.ce_type and b'"accepted"' not in (record.value or b""):
        return None
    with contextlib.suppress(BadRecord):
        event = decode(record.topic, record.headers, record.value)
        if isinstance(event, WebhookSucceeded | WebhookFailed) or (
            isinstance(event, WebhookAttempted) and event.outcome is AttemptOutcome.ACCEPTED
        ):
            admit(event, now)
            return event.session_id, event.identity
    return None


def cancel_request(record: RawRecord, now: datetime) -> CancelRequested | None:
    """Return the cancel that a record of control carries; None for all other records, and what may not be admitted.

    The tracker dead-letters the latter, so their sessions go on.
    """
    with contextlib.suppress(BadRecord):
        event = decode(record.topic, record.headers, record.value)
        if isinstance(event, CancelRequested):
            admit(event, now)
            return event
    return None
