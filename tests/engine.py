"""Which broker the tests run on: the embedded one, or Apache Kafka where TEST_ENGINE is `kafka`.

`python -m tests.engine` says whether Apache Kafka can be had here, and ends with exit code 1 if not.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from services.contracts.topics import DEAD_LETTER_TOPICS, GROUP_TOPICS, TOPICS
from services.local.kafka_artifacts import KafkaMissingError, kafka_artifacts
from services.local.reaper import start_reaper


def on_apache_kafka() -> bool:
    """Whether it is Apache Kafka; the settings of every client here depend on it."""
    engine = os.environ.get("TEST_ENGINE", "embedded")
    if engine not in {"embedded", "kafka"}:
        raise ValueError(f"TEST_ENGINE is {engine!r}: make it `embedded` or `kafka`.")
    return engine == "kafka"


async def empty(bootstrap: str) -> None:
    """Delete every topic of an Apache Kafka, and wait until the broker and its groups have forgotten them."""
    await _delete(bootstrap, await _topics(bootstrap))


async def empty_what_was_used(bootstrap: str) -> None:
    """As `empty`, but leave topics of the contract that have never had a record: making them anew takes long."""
    there = await _topics(bootstrap)
    ours = [name for name in there if name in _OURS]
    unused = await _never_written_to(bootstrap, ours) if ours else set()
    await _delete(bootstrap, [name for name in there if name not in unused])


_OURS = {topic.name for topic in (*TOPICS, *DEAD_LETTER_TOPICS)}


async def _topics(bootstrap: str) -> list[str]:
    async with _admin(bootstrap) as admin:
        return [name for name in await admin.list_topics() if not name.startswith("__")]


async def _never_written_to(bootstrap: str, topics: Sequence[str]) -> set[str]:
    # Only of topics that it subscribes to does the client know the leaders at once.
    reader = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap)
    await reader.start()
    try:
        partitions = [TopicPartition(name, n) for name in topics for n in reader.partitions_for_topic(name) or ()]
        ends = await reader.end_offsets(partitions)
    finally:
        await reader.stop()
    return set(topics) - {partition.topic for partition, end in ends.items() if end > 0}


async def _delete(bootstrap: str, topics: Sequence[str]) -> None:
    if not topics:
        return
    async with _admin(bootstrap) as admin, asyncio.timeout(20):
        answer = await admin.delete_topics(list(topics))
        assert all(code == 0 for _, code in answer.topic_error_codes), answer  # type: ignore[attr-defined]
        while not {*await admin.list_topics(), *await _committed(admin)}.isdisjoint(topics):
            await asyncio.sleep(0.02)


async def _committed(admin: AIOKafkaAdminClient) -> set[str]:
    """The topics that our groups have offsets of."""
    while True:
        try:
            offsets = [await admin.list_consumer_group_offsets(group) for group in GROUP_TOPICS]
        except GroupCoordinatorNotAvailableError:
            # Kafka makes its own topic when it is first asked for a group.
            await asyncio.sleep(0.02)
        else:
            return {partition.topic for group in offsets for partition in group}


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def main() -> int:
    """Fetch Apache Kafka if need be, and say in a line whether the tests run on it."""
    reaper = start_reaper()
    try:
        with tempfile.TemporaryDirectory() as directory:
            kafka_artifacts(Path(directory) / "maven.log", reaper)
    except KafkaMissingError as error:
        print(f"The tests do not run on Apache Kafka: {error}", flush=True)
        return 1
    finally:
        reaper.close()
    print("The tests that need a broker run on Apache Kafka, too.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
