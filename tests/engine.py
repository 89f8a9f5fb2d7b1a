"""Which broker the tests run on: the embedded one, or Apache Kafka where TEST_ENGINE is `kafka`.

`python -m tests.engine` says whether Apache Kafka can be had here, and ends with exit code 1 if not.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from services.contracts.topics import DEAD_LETTER_TOPICS, GROUP_TOPICS, TOPICS
from services.local.kafka_artifacts import KafkaMissingError, kafka_artifacts
from services.local.reaper import start_reaper
from tests.java import home_of_quick_java
from tests.patience import PATIENT_SECONDS


def on_apache_kafka() -> bool:
    """Whether it is Apache Kafka; the settings of every client here depend on it."""
    engine = os.environ.get("TEST_ENGINE", "embedded")
    if engine not in {"embedded", "kafka"}:
        raise ValueError(f"TEST_ENGINE is {engine!r}: make it `embedded` or `kafka`.")
    return engine == "kafka"


async def empty(bootstrap: str) -> None:
    """Delete every topic of an Apache Kafka, and wait until the broker and its groups have forgotten them."""
    async with admin_of(bootstrap) as admin:
        await _delete(admin, set(await _topics(admin)))


async def empty_of_records(bootstrap: str) -> None:
    """As `empty`, but leave those topics of the system that hold nothing, nor any group's offset: most do.

    Making a topic anew takes the broker far longer than to say that nothing is in it.
    """
    async with admin_of(bootstrap) as admin:
        if not (topics := await _topics(admin)):
            return
        unused = {topic.name for topic in (*TOPICS, *DEAD_LETTER_TOPICS)} - await _used(bootstrap, admin, topics)
        await _delete(admin, topics.keys() - unused)


@asynccontextmanager
async def admin_of(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _topics(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """How many partitions each topic has."""
    found = {entry["topic"]: len(entry["partitions"]) for entry in await admin.describe_topics()}
    return {name: partitions for name, partitions in found.items() if not name.startswith("__")}


async def _used(bootstrap: str, admin: AIOKafkaAdminClient, topics: dict[str, int]) -> set[str]:
    """The topics that hold a record, or a group's offset."""
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await reader.start()
    try:
        ends = await reader.end_offsets([TopicPartition(name, n) for name in topics for n in range(topics[name])])
    finally:
        await reader.stop()
    return {place.topic for place, end in ends.items() if end} | {place.topic for place in await _committed(admin)}


async def _delete(admin: AIOKafkaAdminClient, names: Set[str]) -> None:
    if not names:
        return
    answer = await admin.delete_topics(list(names))
    assert all(code == 0 for _, code in answer.topic_error_codes), answer  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENT_SECONDS):
        while names & (await _topics(admin)).keys() or names & {place.topic for place in await _committed(admin)}:
            await asyncio.sleep(0.02)


async def _committed(admin: AIOKafkaAdminClient) -> set[TopicPartition]:
    """Where groups have committed offsets; Kafka makes its own topic for them when it is first asked for a group."""
    async with asyncio.timeout(PATIENT_SECONDS):
        while True:
            try:
                return {place for group in GROUP_TOPICS for place in await admin.list_consumer_group_offsets(group)}
            except GroupCoordinatorNotAvailableError:
                await asyncio.sleep(0.02)


def home_of_kafkas_java() -> Path | None:
    """Fetch Apache Kafka if need be, and say in a line whether the tests run on it.

    Returns the JAVA_HOME to run it with; None where it cannot be had.
    """
    reaper = start_reaper()
    try:
        with tempfile.TemporaryDirectory() as directory:
            home = home_of_quick_java(kafka_artifacts(Path(directory) / "maven.log", reaper), reaper)
    except KafkaMissingError as error:
        print(f"The tests do not run on Apache Kafka: {error}", flush=True)
        return None
    finally:
        reaper.close()
    print("The tests that need a broker run on Apache Kafka, too.", flush=True)
    return home


if __name__ == "__main__":
    sys.exit(home_of_kafkas_java() is None)
