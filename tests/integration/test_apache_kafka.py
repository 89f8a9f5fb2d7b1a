"""Apache Kafka itself, as one local broker: our topics and clients on it, and what it keeps."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from services.contracts import Record
from services.contracts.topics import DEAD_LETTER_TOPICS, SWEEPS, TOPICS
from services.local.apache_kafka import BRIEF, ApacheKafka, start_apache_kafka
from services.local.kafka_artifacts import KafkaArtifacts
from services.local.reaper import Reaper
from services.runtime.kafka import build_admin, build_producer, publish_all
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from tests.integration.kafka_clients import artifacts_or_skip, consume_as_a_group, publish_numbers, read_values
from tests.integration.kafka_log import committed, fresh_name, make_topics, until_committed

ALL_TOPICS = (*TOPICS, *DEAD_LETTER_TOPICS)


class Running:
    """The broker that the tests share; one of them stops it and starts it anew."""

    def __init__(self, directory: Path, reaper: Reaper, artifacts: KafkaArtifacts) -> None:
        # An id as one cluster in 64 gets it: Kafka's tool must not take it for an option.
        (directory / "kafka").mkdir()
        (directory / "kafka" / "cluster-id").write_text("-kU3OEVBNTcwNTJENDM2Qk")
        self._start = partial(start_apache_kafka, directory, directory, reaper, artifacts, java_options=BRIEF)
        self.kafka: ApacheKafka = self._start()

    def start_anew(self) -> None:
        """Stop it, and start what a second `up` would: other ports, the same data."""
        self.kafka.stop()
        self.kafka = self._start()

    def settings(self) -> KafkaSettings:
        """Settings as a process has them that is told of this broker."""
        told = {name.lower(): value for name, value in self.kafka.client_settings.items()}
        return KafkaSettings(kafka_bootstrap_servers=self.kafka.bootstrap, **told)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def artifacts(session_directory: Path, reaper: Reaper) -> KafkaArtifacts:
    """Apache Kafka; without it there is nothing to test here."""
    return artifacts_or_skip(session_directory, reaper)


@pytest.fixture(scope="module")
def running(artifacts: KafkaArtifacts, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[Running]:
    """One open broker."""
    running = Running(tmp_path_factory.mktemp("kafka"), reaper, artifacts)
    yield running
    running.kafka.stop()


async def test_our_topics_are_made_as_asked_and_no_others(running: Running) -> None:
    settings = running.settings()
    assert sorted(await create_topics(settings)) == sorted(topic.name for topic in ALL_TOPICS)
    assert await create_topics(settings) == []
    admin = build_admin(settings)
    await admin.start()
    try:
        # Asking for a topic by name is what makes it where brokers create topics by themselves.
        await admin.describe_topics(["chat.unasked.v1"])
        described = {entry["topic"]: entry["partitions"] for entry in await admin.describe_topics()}
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in ALL_TOPICS]
        answers = await admin.describe_configs(asked)
    finally:
        await admin.close()
    assert described.keys() == {topic.name for topic in ALL_TOPICS}
    configs = {
        name: {entry[0]: entry[1] for entry in entries}
        for answer in answers
        for _code, _message, _type, name, entries in answer.resources  # type: ignore[attr-defined]
    }
    for topic in ALL_TOPICS:
        assert len(described[topic.name]) == topic.partitions
        assert all(len(partition["replicas"]) == 1 for partition in described[topic.name])
        assert configs[topic.name]["retention.ms"] == str(int(topic.retention.total_seconds() * 1000))
        assert configs[topic.name]["segment.ms"] == configs[topic.name]["retention.ms"]
        assert configs[topic.name]["max.message.bytes"] == str(topic.max_record_bytes)
        assert configs[topic.name]["cleanup.policy"] == "delete"


async def test_an_idempotent_producer_keeps_order_and_the_largest_record_fits(running: Running) -> None:
    settings = running.settings()
    assert settings.kafka_idempotence
    topic = fresh_name("numbers")
    await make_topics(settings.kafka_bootstrap_servers, [topic])
    await publish_numbers(settings, topic, 2_000)
    assert await read_values(settings, topic) == [b"%d" % number for number in range(2_000)]
    largest = b"x" * (SWEEPS.max_record_bytes - 1_000)
    await create_topics(settings)
    producer = build_producer(settings)
    await producer.start()
    try:
        await publish_all(producer, [Record(SWEEPS.name, largest, b"key", [])])
    finally:
        await producer.stop()
    assert (await read_values(settings, SWEEPS.name))[-1] == largest


async def test_a_group_joins_without_waiting_for_others(running: Running) -> None:
    settings, topic = running.settings(), fresh_name("joined")
    await make_topics(settings.kafka_bootstrap_servers, [topic])
    await publish_numbers(settings, topic, 10)
    # The very first group waits for Kafka's own offsets topic too.
    times = [await consume_as_a_group(settings, topic, fresh_name("group"), 10) for _ in range(3)]
    print("joined after", [round(seconds, 2) for seconds in times], "s;", memory(running.kafka), "MB")
    # A broker that waits for more members does so for 3 s.
    assert min(times[1:]) < 3


async def test_records_and_offsets_outlive_a_kill_and_a_restart(running: Running) -> None:
    settings, topic, group = running.settings(), fresh_name("kept"), fresh_name("group")
    place = TopicPartition(topic, 0)
    await make_topics(settings.kafka_bootstrap_servers, [topic])
    await publish_numbers(settings, topic, 25)
    await consume_as_a_group(settings, topic, group, 25)
    (before,) = running.kafka.processes
    running.kafka.kill_broker(1)
    assert running.kafka.processes == []
    assert not psutil.pid_exists(before.pid)
    running.kafka.start_broker(1)
    # The coordinator reads its offsets back after the start.
    await until_committed(running.kafka.bootstrap, group, place, 25)
    running.start_anew()
    assert running.kafka.bootstrap != settings.kafka_bootstrap_servers
    await until_committed(running.kafka.bootstrap, group, place, 25)
    assert len(await read_values(running.settings(), topic)) == 25
    assert await committed(running.kafka.bootstrap, fresh_name("group"), place) is None


def memory(kafka: ApacheKafka) -> list[int]:
    """Resident MB of each broker."""
    return [psutil.Process(child.pid).memory_info().rss // 1_000_000 for child in kafka.processes]
