"""Which broker the tests run on: the embedded one, or Apache Kafka where TEST_ENGINE is `kafka`.

`python -m tests.engine` says whether Apache Kafka can be had here, and ends with exit code 1 if not.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from services.contracts.topics import GROUP_TOPICS
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
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.delete_topics(await _topics(admin))
        assert all(code == 0 for _, code in answer.topic_error_codes), answer  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while await _topics(admin) or await _is_committed(admin):
                await asyncio.sleep(0.02)
    finally:
        await admin.close()


async def _topics(admin: AIOKafkaAdminClient) -> list[str]:
    return [name for name in await admin.list_topics() if not name.startswith("__")]


async def _is_committed(admin: AIOKafkaAdminClient) -> bool:
    try:
        return any([await admin.list_consumer_group_offsets(group) for group in GROUP_TOPICS])
    except GroupCoordinatorNotAvailableError:
        # Kafka makes its own topic when it is first asked for a group.
        return True


def apache_kafka_is_here() -> bool:
    """Fetch Apache Kafka if need be, and say in a line whether the tests run on it."""
    reaper = start_reaper()
    try:
        with tempfile.TemporaryDirectory() as directory:
            kafka_artifacts(Path(directory) / "maven.log", reaper)
    except KafkaMissingError as error:
        print(f"The tests do not run on Apache Kafka: {error}", flush=True)
        return False
    finally:
        reaper.close()
    print("The tests that need a broker run on Apache Kafka, too.", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(not apache_kafka_is_here())
