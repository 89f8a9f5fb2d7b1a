"""How old the oldest record is that a consumer has not finished. Pure; times are Unix seconds."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from aiokafka import TopicPartition

from services.runtime.records import RawRecord


class Lags:
    """What is left of each partition that a consumer has; not of topics that it only follows, and never finishes."""

    def __init__(self, followed: Iterable[str] = ()) -> None:
        self._followed = frozenset(followed)
        self._lags: dict[TopicPartition, Lag] = {}

    def begin(self, partitions: Iterable[TopicPartition], now: float) -> None:
        """These are the consumer's partitions from now on."""
        self._lags = {partition: Lag(now) for partition in partitions if partition.topic not in self._followed}

    def read(self, records: Sequence[RawRecord]) -> None:
        """Note a batch as it was read."""
        for (topic, number), own in groupby(records, key=lambda record: (record.topic, record.partition)):
            if (lag := self._lags.get(TopicPartition(topic, number))) is not None:
                lag.read(list(own))

    def measure(
        self, reached: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], now: float
    ) -> dict[tuple[str, int], tuple[int, float]]:
        """Return, by topic and number, the records that are left and the seconds for which the oldest of them is there.

        `reached` is where each partition goes on; one without it goes on from the first record that was read.
        """
        left = {}
        for partition, lag in self._lags.items():
            next_, end = reached.get(partition, lag.first), ends.get(partition)
            if next_ is not None and end is not None:
                left[partition.topic, partition.partition] = max(0, end - next_), lag.seconds(next_, end, now)
        return left


class Lag:
    """Of one partition. Knows the ages of records that were read, as their batches' first records tell them.

    Of a record that was not read yet it knows no more than that it came after what was read before, and after the last
    moment at which nothing was left: so ages are the most that they can be, and never less than they are.
    """

    def __init__(self, now: float) -> None:
        self._batches: deque[tuple[int, float]] = deque()
        """First offset and time of each batch that may be unfinished."""
        self._next: int | None = None
        self._last_read_at = self._clear_at = now

    @property
    def first(self) -> int | None:
        """The first offset that was read and may be unfinished; None where nothing was read."""
        return self._batches[0][0] if self._batches else None

    def read(self, records: Sequence[RawRecord]) -> None:
        """Note a batch, in order, as it was read; one that is read again is known already."""
        first, last = records[0], records[-1]
        if self._next is None or first.offset >= self._next:
            self._batches.append((first.offset, first.timestamp / 1000))
        if self._next is None or last.offset >= self._next:
            self._next, self._last_read_at = last.offset + 1, last.timestamp / 1000

    def seconds(self, reached: int, end: int, now: float) -> float:
        """Return the age of the record at `reached`, the first that is not finished; 0 where `end` is reached."""
        while len(self._batches) > 1 and self._batches[1][0] <= reached:
            self._batches.popleft()
        if reached >= end:
            self._clear_at = now
            return 0.0
        if self._next is not None and reached < self._next and self._batches:
            return max(0.0, now - self._batches[0][1])
        return max(0.0, now - max(self._last_read_at, self._clear_at))
