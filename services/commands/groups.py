"""How far consumer groups are, as Kafka tells it to someone who is not of them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from services.contracts.topics import GROUP_TOPICS
from services.runtime.kafka import read_from

_ROUND_MS = 1_000
_ROUNDS = 3
_COORDINATOR_TRIES, _COORDINATOR_PAUSE_SECONDS = 30, 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group is in one partition."""

    beginning: int
    committed: int | None
    """The offset that it goes on from; None where it has committed nothing."""
    end: int

    @property
    def next_offset(self) -> int:
        """The first record that the group has not finished."""
        return self.beginning if self.committed is None else max(self.committed, self.beginning)

    @property
    def lag(self) -> int:
        """How many records it has not finished."""
        return max(0, self.end - self.next_offset)


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group, with the partitions of the topics that it is answerable for."""

    group_id: str
    state: str
    members: int
    places: Mapping[TopicPartition, Place]

    @property
    def lag(self) -> int:
        """How many records of all its partitions it has not finished."""
        return sum(place.lag for place in self.places.values())


async def read_group(admin: AIOKafkaAdminClient, reader: AIOKafkaConsumer, group_id: str) -> Group:
    """Return one of the system's groups; KafkaError where Kafka does not tell."""
    partitions = [
        TopicPartition(topic.name, number) for topic in GROUP_TOPICS[group_id] for number in range(topic.partitions)
    ]
    # The coordinator is looked for once; asked for itself, each of the two calls would look anew.
    coordinator = await _coordinator(admin, group_id)
    (described,) = await admin.describe_consumer_groups([group_id], coordinator)
    _, _, state, _, _, members, *_ = described.groups[0]  # type: ignore[attr-defined]
    offsets = await admin.list_consumer_group_offsets(group_id, coordinator, partitions)
    beginnings, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
    committed = {place: told.offset for place, told in offsets.items() if told.offset >= 0}
    places = {place: Place(beginnings[place], committed.get(place), ends[place]) for place in partitions}
    return Group(group_id, state, len(members), places)


async def _coordinator(admin: AIOKafkaAdminClient, group_id: str) -> int:
    for _ in range(_COORDINATOR_TRIES):
        try:
            return await admin.find_coordinator(group_id)
        except GroupCoordinatorNotAvailableError:  # A new Kafka makes its topic of groups when first asked for one.
            await asyncio.sleep(_COORDINATOR_PAUSE_SECONDS)
    return await admin.find_coordinator(group_id)


async def oldest_waiting_ms(reader: AIOKafkaConsumer, group: Group) -> int | None:
    """Return when the oldest record that the group has not finished was written, in Unix milliseconds.

    None where nothing waits, or Kafka does not give the records within 3 s. Raises KafkaError.
    """
    waiting = {place: where.next_offset for place, where in group.places.items() if where.lag}
    if not waiting:
        return None
    read_from(reader, waiting)
    first: dict[TopicPartition, int] = {}
    for _ in range(_ROUNDS):
        for place, records in (await reader.getmany(*waiting.keys() - first.keys(), timeout_ms=_ROUND_MS)).items():
            if records:
                first.setdefault(place, records[0].timestamp)
        if len(first) == len(waiting):
            break
    return min(first.values(), default=None)
