"""Clients of Apache Kafka as the services build theirs, each used once."""

import asyncio
import time
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from services.contracts import Record
from services.local.kafka_artifacts import KafkaArtifacts, KafkaMissingError, kafka_artifacts
from services.local.reaper import Reaper
from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.kafka import build_broker, build_producer, build_reader, publish_all
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown
from tests.integration.group_member import Ledger
from tests.integration.kafka_log import eventually
from tests.patience import PATIENT_SECONDS


def artifacts_or_skip(directory: Path, reaper: Reaper) -> KafkaArtifacts:
    """What Apache Kafka is started from; the test is skipped, saying why, where that cannot be had."""
    try:
        return kafka_artifacts(directory / "maven.log", reaper)
    except KafkaMissingError as error:
        pytest.skip(f"Apache Kafka did not run: {error}")


async def publish_numbers(settings: KafkaSettings, topic: str, count: int) -> None:
    producer = build_producer(settings)
    await producer.start()
    try:
        await publish_all(producer, [Record(topic, b"%d" % number, b"key", []) for number in range(count)])
    finally:
        await producer.stop()


async def consume_as_a_group(settings: KafkaSettings, topic: str, group: str, count: int) -> float:
    """Join, take `count` records, commit them, leave; gives the seconds from the start to the assignment."""
    ledger, shutdown = Ledger(), Shutdown()
    broker = build_broker(settings)
    consumer = BatchConsumer(
        broker,
        ledger,
        [ledger.take],
        group_id=group,
        topics=[topic],
        settings=settings,
        shutdown=shutdown,
        metrics=ConsumerMetrics(CollectorRegistry()),
    )
    began = time.monotonic()
    await broker.start()
    await consumer.start()
    try:
        await eventually(lambda: ledger.told, "the group is joined")
        joined = time.monotonic() - began
        await eventually(lambda: len(ledger.taken) >= count, "the records arrive")
    finally:
        await consumer.stop()
        await broker.stop()
    assert ledger.values() == [b"%d" % number for number in range(count)]
    assert shutdown.exit_code == 0
    return joined


async def read_values(settings: KafkaSettings, topic: str) -> list[bytes | None]:
    """The values of a topic of one partition, through a reader."""
    reader = build_reader(settings, client_id="test-reader")
    await reader.start()
    try:
        place = TopicPartition(topic, 0)
        end = (await reader.end_offsets([place]))[place]
        reader.assign([place])
        reader.seek(place, 0)
        values: list[bytes | None] = []
        async with asyncio.timeout(PATIENT_SECONDS):
            while len(values) < end:
                values += [r.value for records in (await reader.getmany(timeout_ms=200)).values() for r in records]
        return values
    finally:
        await reader.stop()
