"""Records that a group cannot use, kept byte for byte beside the reason."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from services.contracts import BadRecord
from services.contracts.codec import header, session_id_of
from services.contracts.topics import dead_letter_topic
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.kafka import NotAcknowledged
from services.runtime.logs import about
from services.runtime.records import RawRecord

logger = logging.getLogger(__name__)

TOPIC_HEADER = "dlq-topic"
PARTITION_HEADER = "dlq-partition"
OFFSET_HEADER = "dlq-offset"
GROUP_HEADER = "dlq-group"
REASON_HEADER = "dlq-reason"
ERROR_HEADER = "dlq-error"
OMITTED_HEADER = "dlq-omitted"
"""In place of a record's own key, value and headers: their size, where it is more than a dead-letter topic takes."""
REPLAY_GROUP_HEADER = "replay-group"
"""On a replayed record: the only group that is to use it; all others skip it."""
REPLAY_OF_HEADER = "replay-of"
"""On a replayed record: which dead letter it was, so that it can be found and is not published twice."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record and why its group cannot use it."""

    record: RawRecord
    cause: BadRecord


class DeadLetters:
    """Publishes to the dead-letter topics of one consumer group."""

    def __init__(self, producer: AIOKafkaProducer, group_id: str, metrics: ConsumerMetrics) -> None:
        self._producer = producer
        self._group_id = group_id
        self._metrics = metrics

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Return once the broker has acknowledged every letter; raise NotAcknowledged where it did not."""
        try:
            waiting = [await self._send(letter) for letter in letters]
            await asyncio.gather(*waiting)
        except KafkaError as error:
            raise NotAcknowledged(f"Kafka did not acknowledge a dead letter: {error!r}") from error
        for letter in letters:
            self._tell(letter)

    def _tell(self, letter: DeadLetter) -> None:
        record, cause = letter.record, letter.cause
        logger.warning(
            "Dead letter from %s partition %d offset %d: %s (%s)",
            record.topic,
            record.partition,
            record.offset,
            cause.explanation,
            cause.reason,
            extra={**about_record(record), "fault": cause.reason},
        )
        self._metrics.dead_letters.labels(self._group_id, record.topic, cause.reason).inc()

    async def _send(self, letter: DeadLetter) -> "asyncio.Future[object]":
        record, cause = letter.record, letter.cause
        origin = [
            (TOPIC_HEADER, record.topic),
            (PARTITION_HEADER, str(record.partition)),
            (OFFSET_HEADER, str(record.offset)),
            (GROUP_HEADER, self._group_id),
            (REASON_HEADER, cause.reason),
            (ERROR_HEADER, cause.explanation),
        ]
        why = [(name, text.encode()) for name, text in origin]
        topic = dead_letter_topic(record.topic, self._group_id).name
        try:
            return await self._append(topic, record.key, record.value, [*record.headers, *why])
        except MessageSizeTooLargeError:
            # A compressed batch can carry records that no topic takes on their own. The whole one stays where it was.
            omitted = (OMITTED_HEADER, f"{len(record.key or b'') + len(record.value or b'')} bytes".encode())
            return await self._append(topic, None, None, [*why, omitted])

    async def _append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
    ) -> "asyncio.Future[object]":
        future: asyncio.Future[object]
        if key is None and value is None:
            # aiokafka's send() refuses what Kafka takes.
            batch = self._producer.create_batch()
            batch.append(timestamp=None, key=None, value=None, headers=headers)
            future = await self._producer.send_batch(batch, topic, partition=0)
        else:
            future = await self._producer.send(topic, value, key=key, headers=headers)
        return future


def about_record(record: RawRecord) -> dict[str, str]:
    """Return the fields of a log line about a record: its session, where it names one, and its trace."""
    return about(session_id_of(record.headers), header(record.headers, "traceparent"))


def meant_for_another_group(record: RawRecord, group_id: str) -> bool:
    """Tell whether the record is a replayed dead letter of another group."""
    group = dict(record.headers).get(REPLAY_GROUP_HEADER)
    return group is not None and group != group_id.encode()
