"""Topics of a test's own, and plain writing to and reading from them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from services.contracts.topics import MAX_DEAD_LETTER_BYTES
from services.runtime.kafka import build_producer, build_reader
from services.runtime.records import RawRecord
from services.runtime.settings import KafkaSettings
from tests.engine import admin_of, on_apache_kafka
from tests.patience import PATIENT_SECONDS


class Sent(NamedTuple):
    """A record as a test sends it."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int | None = None


def settings_for(bootstrap: str) -> KafkaSettings:
    """Settings that make groups of the embedded broker quick, and of Apache Kafka not slow."""
    return KafkaSettings(
        kafka_bootstrap_servers=bootstrap,
        kafka_session_timeout_ms=1500,
        kafka_rebalance_timeout_ms=1000,
        kafka_fetch_max_wait_ms=50,
        kafka_idempotence=on_apache_kafka(),
        kafka_replication_factor=1,
    )


def fresh_name(stem: str) -> str:
    """A name that no other test uses."""
    return f"{stem}-{uuid4().hex[:12]}"


async def make_topics(bootstrap: str, names: Iterable[str], partitions: int = 1) -> None:
    """Create topics that do not exist yet."""
    async with admin_of(bootstrap) as client:
        # As large as our own topics take; the embedded broker has no limit.
        sizes = {"max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}
        answer = await client.create_topics([NewTopic(name, partitions, 1, topic_configs=sizes) for name in names])
        assert all(code == 0 for _, code, *_ in answer.topic_errors), answer  # type: ignore[attr-defined]


async def delete_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Delete topics; those that do not exist are passed over."""
    async with admin_of(bootstrap) as client:
        await client.delete_topics(list(names))


@asynccontextmanager
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer, built as the services build theirs."""
    client = build_producer(settings_for(bootstrap))
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def send(bootstrap: str, topic: str, records: Iterable[Sent]) -> None:
    """Return once every record is acknowledged."""
    async with producer(bootstrap) as client:
        await asyncio.gather(*[await _append(client, topic, record) for record in records])


async def _append(client: AIOKafkaProducer, topic: str, record: Sent) -> "asyncio.Future[object]":
    future: asyncio.Future[object]
    headers = list(record.headers)
    if record.key is None and record.value is None:
        # aiokafka's send() refuses what Kafka takes.
        batch = client.create_batch()
        assert batch.append(timestamp=None, key=None, value=None, headers=headers) is not None
        future = await client.send_batch(batch, topic, partition=record.partition)
    else:
        future = await client.send(topic, record.value, key=record.key, partition=record.partition, headers=headers)
    return future


async def read_all(bootstrap: str, topic: str) -> list[RawRecord]:
    """Every record of a topic that has lost none yet, partition by partition."""
    partitions = await partitions_of(bootstrap, topic)
    reader = build_reader(settings_for(bootstrap), client_id="test-reader")
    await reader.start()
    try:
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        found: dict[TopicPartition, list[RawRecord]] = {partition: [] for partition in partitions}
        give_up = time.monotonic() + PATIENT_SECONDS
        # What a fetch tells of the end: the embedded broker's answer to end_offsets() can be too low.
        while any(len(found[partition]) != reader.highwater(partition) for partition in partitions):
            assert time.monotonic() < give_up, f"{topic} could not be read to its end."
            for partition, records in (await reader.getmany(timeout_ms=200)).items():
                found[partition] += records
        return [record for partition in partitions for record in found[partition]]
    finally:
        await reader.stop()


async def partitions_of(bootstrap: str, topic: str) -> list[TopicPartition]:
    """The partitions of a topic, which must exist."""
    async with admin_of(bootstrap) as client:
        (entry,) = await client.describe_topics([topic])
    assert entry["partitions"], f"{topic} does not exist."
    return [TopicPartition(topic, number) for number in range(len(entry["partitions"]))]


async def committed(bootstrap: str, group_id: str, partition: TopicPartition) -> int | None:
    """The offset that a group has committed, read without joining it."""
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group_id, enable_auto_commit=False)
    await reader.start()
    try:
        reader.assign([partition])
        offset: int | None = await reader.committed(partition)
        return offset
    finally:
        await reader.stop()


async def eventually(condition: Callable[[], bool], what: str, seconds: float = PATIENT_SECONDS) -> None:
    """Return as soon as the condition holds; fail, saying what did not happen, after `seconds`."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"Within {seconds} s it did not happen that {what}."
        await asyncio.sleep(0.01)


async def until_committed(bootstrap: str, group_id: str, partition: TopicPartition, offset: int) -> None:
    """Return as soon as the group has committed `offset`; fail after a minute."""
    give_up = time.monotonic() + PATIENT_SECONDS
    while (found := await committed(bootstrap, group_id, partition)) != offset:
        assert time.monotonic() < give_up, f"The group has committed {found}, not {offset}."
        await asyncio.sleep(0.1)
