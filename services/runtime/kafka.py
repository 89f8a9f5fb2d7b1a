"""Builders for Kafka clients, so that every process connects and publishes by the same rules."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from faststream.kafka import KafkaBroker

from services.contracts import Record
from services.contracts.topics import MAX_DEAD_LETTER_BYTES
from services.runtime.faults import PassingFault
from services.runtime.kafka_security import client_security, faststream_security
from services.runtime.settings import KafkaSettings

MAX_BATCH_BYTES = 256 * 1024


class NotAcknowledged(PassingFault):
    """The broker did not acknowledge a record in time: whether it is stored is unknown."""


def build_producer(settings: KafkaSettings, *, request_timeout_ms: int = 40_000) -> AIOKafkaProducer:
    """Return a producer, not started, whose acknowledgement means that every in-sync replica has the record."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        acks="all",
        enable_idempotence=settings.kafka_idempotence,
        linger_ms=0,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_DEAD_LETTER_BYTES,
        request_timeout_ms=request_timeout_ms,
        **client_security(settings),
    )


def build_courier(settings: KafkaSettings, *, request_timeout_ms: int = 5_000) -> AIOKafkaProducer:
    """Return a producer, not started, for records that may be lost: it never holds up those that may not."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        acks=1,
        linger_ms=0,
        max_request_size=MAX_DEAD_LETTER_BYTES,
        request_timeout_ms=request_timeout_ms,
        **client_security(settings),
    )


def build_broker(settings: KafkaSettings) -> KafkaBroker:
    """Return a FastStream broker for subscribers; publishing goes through build_producer()."""
    return KafkaBroker(
        # FastStream takes a string for one address.
        [address.strip() for address in settings.kafka_bootstrap_servers.split(",")],
        logger=None,
        graceful_timeout=None,
        consumer_only=True,
        allow_auto_create_topics=False,
        security=faststream_security(settings),
    )


def build_reader(settings: KafkaSettings, *, client_id: str) -> AIOKafkaConsumer:
    """Return a consumer, not started, without a group: it is told what to read and commits nothing."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id=client_id,
        group_id=None,
        enable_auto_commit=False,
        fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
        **client_security(settings),
    )


def read_from(reader: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Let a reader that is started read these partitions, each from this offset on."""
    reader.assign([*offsets])
    # At once: the client would set positions of its own in the background, and could be late with them.
    for partition, offset in offsets.items():
        reader.seek(partition, offset)


def build_admin(settings: KafkaSettings) -> AIOKafkaAdminClient:
    """Return an admin client, not started."""
    return AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers, **client_security(settings))


async def publish(producer: AIOKafkaProducer, record: Record, partition: int | None = None) -> None:
    """Send a record and wait for the broker's acknowledgement; raise NotAcknowledged without one.

    `partition`, where it is known, must be the key's own.
    """
    try:
        acknowledgement = await producer.send(
            record.topic, record.value, key=record.key, partition=partition, headers=record.headers
        )
        await acknowledgement
    except KafkaError as error:
        raise NotAcknowledged(f"Kafka did not acknowledge a record for {record.topic}: {error!r}") from error


async def publish_batches(producer: AIOKafkaProducer, topic: str, partitioned: Mapping[int, Sequence[Record]]) -> None:
    """Send records of one topic, given by partition and in order; raise NotAcknowledged where one is missing.

    Batches are filled here: for thousands of records that costs a third of handing over each.
    """
    try:
        waiting = [
            await producer.send_batch(batch, topic, partition=partition)
            for partition, records in partitioned.items()
            for batch in _batches(producer, records)
        ]
        await asyncio.gather(*waiting)
    except KafkaError as error:
        raise NotAcknowledged(f"Kafka did not acknowledge a batch of records: {error!r}") from error


def _batches(producer: AIOKafkaProducer, records: Iterable[Record]) -> Iterator[BatchBuilder]:
    batch = producer.create_batch()
    for record in records:
        fields = {"timestamp": None, "key": record.key, "value": record.value, "headers": record.headers}
        if batch.append(**fields) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(**fields)  # an empty batch takes a record of any size
    yield batch


async def publish_all(producer: AIOKafkaProducer, records: Iterable[Record]) -> None:
    """Send records, then wait for every acknowledgement; raise NotAcknowledged where one is missing."""
    try:
        waiting = [
            await producer.send(record.topic, record.value, key=record.key, headers=record.headers)
            for record in records
        ]
        await asyncio.gather(*waiting)
    except KafkaError as error:
        raise NotAcknowledged(f"Kafka did not acknowledge a batch of records: {error!r}") from error
