"""Which offsets a consumer may commit."""

from collections.abc import Mapping, Sequence

from aiokafka import TopicPartition

from services.runtime.records import RawRecord


class DoneOffsets:
    """The offsets that a work which finishes each batch before the next has done."""

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}

    def add(self, records: Sequence[RawRecord]) -> None:
        """Count these records, in order, as done."""
        last = {(record.topic, record.partition): record.offset for record in records}
        for partition, offset in last.items():
            self._next[TopicPartition(*partition)] = offset + 1

    def clear(self) -> None:
        """Forget everything: the partitions were given out anew."""
        self._next = {}

    def next(self) -> Mapping[TopicPartition, int]:
        """Return per partition the offset to go on from."""
        return self._next
