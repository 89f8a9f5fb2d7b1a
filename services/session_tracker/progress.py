"""How far each partition is folded: what a sweep waits for, and what tells `not yet tracked` from `not found`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.runtime.records import RawRecord

CLOCK_MARGIN = timedelta(seconds=1)
"""A record stamped before a moment may reach its partition shortly after it: progress stays this far behind."""

Progress = dict[tuple[str, int], datetime]
"""By topic and partition: every record stamped before this moment is folded."""


def batch_progress(records: Sequence[RawRecord], now: datetime) -> Progress:
    """Return how far a batch, once folded, brings its partitions. A publisher's clock never brings them past `now`."""
    latest: dict[tuple[str, int], int] = {}
    for record in records:
        key = record.topic, record.partition
        latest[key] = max(record.timestamp, latest.get(key, record.timestamp))
    return {
        key: min(datetime.fromtimestamp(milliseconds / 1000, UTC), now) - CLOCK_MARGIN
        for key, milliseconds in latest.items()
    }


class IdleProgress:
    """Moves partitions on that have nothing left to fold: nobody writes to them, but time passes."""

    def __init__(self) -> None:
        self._starts: dict[TopicPartition, int] = {}

    def clear(self) -> None:
        """Forget everything: the partitions were given out anew."""
        self._starts = {}

    async def at_the_end(self, consumer: AIOKafkaConsumer, done: Mapping[TopicPartition, int]) -> Progress:
        """Return the partitions whose every record is done, with the time at which Kafka last said so.

        Raises KafkaError where Kafka does not tell the offset from which a partition is read.
        """
        for partition in consumer.assignment() - done.keys() - self._starts.keys():
            self._starts[partition] = await _start(consumer, partition)
        progress: Progress = {}
        for partition in consumer.assignment():
            reached = done.get(partition, self._starts.get(partition))
            polled, end = consumer.last_poll_timestamp(partition), consumer.highwater(partition)
            if reached is not None and polled is not None and end is not None and reached >= end:
                moment = datetime.fromtimestamp(polled / 1000, UTC) - CLOCK_MARGIN
                progress[partition.topic, partition.partition] = moment
        return progress


async def _start(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    """Return the offset from which the group reads the partition on."""
    committed: int | None = await consumer.committed(partition)
    if committed is None:
        offsets: dict[TopicPartition, int] = await consumer.beginning_offsets([partition])
        return offsets[partition]
    return committed
