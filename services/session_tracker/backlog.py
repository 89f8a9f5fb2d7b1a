"""Which messages dispatchers have not finished, as Kafka knows it: read beside their group, without joining it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.contracts.codec import header
from services.contracts.topics import DISPATCHER_GROUP, MESSAGES
from services.runtime.dead_letters import meant_for_another_group
from services.runtime.faults import PassingFault
from services.runtime.kafka import build_admin, build_reader, read_from
from services.runtime.records import RawRecord
from services.runtime.settings import KafkaSettings

MOST_RECORDS = 200_000
"""More than that is not read through: what dispatchers hold of every partition, and some more."""
READ_SECONDS = 60.0

_PARTITIONS = [TopicPartition(MESSAGES.name, number) for number in range(MESSAGES.partitions)]

Offsets = Mapping[TopicPartition, int]


class BacklogTooLong(PassingFault):
    """Dispatchers are so far behind that it is not read which messages wait for them."""


class Backlog:
    """The end of `chat.messages.v1` that dispatchers have not finished. Every method raises KafkaError."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    async def offsets(self) -> Offsets:
        """Return the lowest unfinished offset of each partition in which dispatchers have finished something."""
        admin = build_admin(self._settings)
        try:
            await admin.start()
            committed = await admin.list_consumer_group_offsets(DISPATCHER_GROUP, partitions=_PARTITIONS)
        finally:
            await admin.close()
        return {partition: found.offset for partition, found in committed.items() if found.offset >= 0}

    async def sessions(self, offsets: Offsets) -> set[UUID]:
        """Return the sessions of all messages from these offsets to the ends.

        Raises BacklogTooLong where there are too many, or Kafka does not give them within a minute.
        """
        reader = build_reader(self._settings, client_id="chat-sessions-recovery")
        try:
            await reader.start()
            return await _sessions(reader, await _starts(reader, offsets))
        finally:
            await reader.stop()


async def _starts(reader: AIOKafkaConsumer, offsets: Offsets) -> Offsets:
    """Return from where a dispatcher would go on: where Kafka lost what was committed, from the beginning."""
    beginnings: Offsets = await reader.beginning_offsets(_PARTITIONS)
    ends: Offsets = await reader.end_offsets(_PARTITIONS)
    return {
        partition: offset
        if beginning <= (offset := offsets.get(partition, beginning)) <= ends[partition]
        else beginning
        for partition, beginning in beginnings.items()
    }


async def _sessions(reader: AIOKafkaConsumer, starts: Offsets) -> set[UUID]:
    read_from(reader, starts)
    found: set[UUID] = set()
    give_up = asyncio.get_running_loop().time() + READ_SECONDS
    while await _unread(reader, starts):
        if asyncio.get_running_loop().time() > give_up:
            raise BacklogTooLong("Kafka does not give the messages that wait for dispatchers in time.")
        for records in (await reader.getmany(timeout_ms=200)).values():
            found |= _subjects(records)
    return found


async def _unread(reader: AIOKafkaConsumer, starts: Offsets) -> bool:
    """Tell whether there is more to read, by what fetches say of the ends: the embedded broker knows no better."""
    ends = {partition: reader.highwater(partition) for partition in starts}
    if sum(end - starts[partition] for partition, end in ends.items() if end is not None) > MOST_RECORDS:
        raise BacklogTooLong(f"More than {MOST_RECORDS} messages wait for dispatchers.")
    return any([end is None or await reader.position(partition) < end for partition, end in ends.items()])


def _subjects(records: Sequence[RawRecord]) -> set[UUID]:
    subjects = set()
    for record in records:
        if not meant_for_another_group(record, DISPATCHER_GROUP):
            with suppress(ValueError):
                subjects.add(UUID(header(record.headers, "ce_subject") or ""))
    return subjects
