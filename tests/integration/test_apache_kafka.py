"""Apache Kafka itself, as one local broker: our topics, our clients, and clients that it must not let in."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from prometheus_client import CollectorRegistry

from services.contracts import Record
from services.contracts.topics import DEAD_LETTER_TOPICS, SWEEPS, TOPICS
from services.local.apache_kafka import ApacheKafka, start_apache_kafka
from services.local.kafka_artifacts import KafkaArtifacts, KafkaMissingError, kafka_artifacts
from services.local.kafka_properties import SecuredListener
from services.local.reaper import Reaper
from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.kafka import build_admin, build_broker, build_producer, build_reader, publish_all
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown
from services.runtime.topics import TopicsNotCreated, create_topics
from tests.certificates import Authority
from tests.integration.group_member import Ledger
from tests.integration.kafka_log import committed, eventually, fresh_name, make_topics, until_committed

PASSWORD = "kept from every log"
NOT_OURS = r"ended TLS \(.*(CERTIFICATE|UNKNOWN_CA).*\): .*KAFKA_SSL_CERTFILE"
ALL_TOPICS = (*TOPICS, *DEAD_LETTER_TOPICS)


class Running:
    """The broker that the tests share; one of them stops it and starts it anew."""

    def __init__(self, directory: Path, reaper: Reaper, artifacts: KafkaArtifacts) -> None:
        self._start = partial(start_apache_kafka, directory, directory, reaper, artifacts)
        self.kafka: ApacheKafka = self._start()

    def start_anew(self) -> None:
        """Stop it, and start what a second `up` would: other ports, the same data."""
        self.kafka.stop()
        self.kafka = self._start()

    def settings(self) -> KafkaSettings:
        """Settings as a process has them that is told of this broker."""
        told = {name.lower(): value for name, value in self.kafka.client_settings.items()}
        return KafkaSettings(kafka_bootstrap_servers=self.kafka.bootstrap, **told)  # type: ignore[arg-type]


class Guarded:
    """A broker that asks clients who they are, and the files that they may show."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory, "authority")
        self.stranger = Authority(directory, "stranger")
        self.kafka: ApacheKafka

    def key_store(self) -> dict[str, str]:
        """Properties of a listener that shows a certificate of our authority."""
        certificate, key = self.authority.sign("broker")
        store = self.directory / "broker-store.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        return {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}

    def settings(self, **more: object) -> KafkaSettings:
        """Settings for this broker."""
        return KafkaSettings(kafka_bootstrap_servers=self.kafka.bootstrap, kafka_replication_factor=1, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def artifacts(session_directory: Path, reaper: Reaper) -> KafkaArtifacts:
    """Apache Kafka; without it there is nothing to test here."""
    try:
        return kafka_artifacts(session_directory / "maven.log", reaper)
    except KafkaMissingError as error:
        pytest.skip(f"Apache Kafka did not run: {error}")


@pytest.fixture(scope="module")
def running(artifacts: KafkaArtifacts, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[Running]:
    """One open broker."""
    running = Running(tmp_path_factory.mktemp("kafka"), reaper, artifacts)
    yield running
    running.kafka.stop()


@pytest.fixture(scope="module")
def scram(artifacts: KafkaArtifacts, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[Guarded]:
    """A broker that wants SCRAM over TLS and knows the user `chat`."""
    guarded = Guarded(tmp_path_factory.mktemp("scram"))
    properties = {**guarded.key_store(), "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512"}
    # The broker wants a login context for every mechanism; the users themselves are in its data.
    for mechanism in ("scram-sha-256", "scram-sha-512"):
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        properties[f"listener.name.clients.{mechanism}.sasl.jaas.config"] = login
    users = [f"SCRAM-SHA-{bits}=[name=chat,password={PASSWORD}]" for bits in (256, 512)]
    listener = SecuredListener("SASL_SSL", properties, users)
    guarded.kafka = start_apache_kafka(guarded.directory, guarded.directory, reaper, artifacts, secured=listener)
    yield guarded
    guarded.kafka.stop()


@pytest.fixture(scope="module")
def mutual(artifacts: KafkaArtifacts, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[Guarded]:
    """A broker that wants a client certificate of our authority."""
    guarded = Guarded(tmp_path_factory.mktemp("mutual"))
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(guarded.authority.certificate)}
    listener = SecuredListener("SSL", {**guarded.key_store(), **trust, "ssl.client.auth": "required"})
    guarded.kafka = start_apache_kafka(guarded.directory, guarded.directory, reaper, artifacts, secured=listener)
    yield guarded
    guarded.kafka.stop()


def scram_settings(scram: Guarded, **more: object) -> KafkaSettings:
    """The right settings for the SCRAM broker, save for `more`."""
    right = {
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        "kafka_sasl_username": "chat",
        "kafka_sasl_password": PASSWORD,
        "kafka_ssl_cafile": scram.authority.certificate,
    }
    return scram.settings(**(right | more))


def mutual_settings(mutual: Guarded, signed_by: Authority) -> KafkaSettings:
    """Settings for the mTLS broker with a certificate signed by `signed_by`."""
    certificate, key = signed_by.sign(fresh_name("client"))
    return mutual.settings(
        kafka_security_protocol="SSL",
        kafka_ssl_cafile=mutual.authority.certificate,
        kafka_ssl_certfile=certificate,
        kafka_ssl_keyfile=key,
    )


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


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_every_client_of_ours_gets_in_with_scram_over_tls(
    mechanism: str, scram: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await use_every_client(scram_settings(scram, kafka_sasl_mechanism=mechanism))
    assert PASSWORD not in caplog.text


async def test_every_client_of_ours_gets_in_with_a_certificate(mutual: Guarded) -> None:
    await use_every_client(mutual_settings(mutual, mutual.authority))


async def use_every_client(settings: KafkaSettings) -> None:
    """Admin, producer, group member, reader."""
    await create_topics(settings)
    topic = fresh_name("guarded")
    admin = build_admin(settings)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()
    await publish_numbers(settings, topic, 5)
    await consume_as_a_group(settings, topic, fresh_name("group"), 5)
    assert len(await read_values(settings, topic)) == 5


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
        async with asyncio.timeout(20):
            while len(values) < end:
                values += [r.value for records in (await reader.getmany(timeout_ms=200)).values() for r in records]
        return values
    finally:
        await reader.stop()


SCRAM_MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "wrong password": ({"kafka_sasl_password": "not this"}, r"refused the user chat: check .*KAFKA_SASL_PASSWORD"),
    "unknown user": ({"kafka_sasl_username": "nobody"}, r"refused the user nobody: check KAFKA_SASL_USERNAME"),
    "other mechanism": ({"kafka_sasl_mechanism": "PLAIN"}, r"does not take PLAIN: check KAFKA_SASL_MECHANISM"),
    "untrusted broker": ({"kafka_ssl_cafile": "stranger"}, r"certificate that is not trusted .*KAFKA_SSL_CAFILE"),
    "the system's authorities": ({"kafka_ssl_cafile": None}, r"certificate that is not trusted .*KAFKA_SSL_CAFILE"),
    "no TLS": (
        {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_cafile": None},
        r"closed the connection: .*KAFKA_SECURITY_PROTOCOL \(SASL_PLAINTEXT\)",
    ),
    "no SASL": (
        {
            "kafka_security_protocol": "SSL",
            "kafka_sasl_mechanism": None,
            "kafka_sasl_username": None,
            "kafka_sasl_password": None,
        },
        r"closed the connection: .*KAFKA_SECURITY_PROTOCOL \(SSL\)",
    ),
}


@pytest.mark.parametrize("mistake", SCRAM_MISTAKES)
async def test_wrong_scram_settings_are_refused_in_one_sentence(
    mistake: str, scram: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    changes, told = SCRAM_MISTAKES[mistake]
    if changes.get("kafka_ssl_cafile") == "stranger":
        changes = {"kafka_ssl_cafile": scram.stranger.certificate}
    await refused(scram_settings(scram, **changes), told, caplog)


async def test_wrong_certificates_are_refused_in_one_sentence(
    mutual: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    without = mutual.settings(kafka_security_protocol="SSL", kafka_ssl_cafile=mutual.authority.certificate)
    await refused(without, NOT_OURS, caplog)
    await refused(mutual_settings(mutual, mutual.stranger), NOT_OURS, caplog)
    await refused(mutual.settings(), r"closed the connection: .*KAFKA_SECURITY_PROTOCOL \(PLAINTEXT\)", caplog)


async def refused(settings: KafkaSettings, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """Creating topics fails with one sentence that matches `told` and names the broker, and shows no password."""
    with pytest.raises(TopicsNotCreated, match=told) as error:
        await create_topics(settings)
    (sentence,) = str(error.value).splitlines()
    assert sentence.startswith(f"Kafka at {settings.kafka_bootstrap_servers} ")
    assert sentence.endswith(".")
    assert PASSWORD not in sentence + caplog.text
    assert "not this" not in sentence + caplog.text
    # aiokafka lets go of a refused connection in the background.
    port = int(settings.kafka_bootstrap_servers.rpartition(":")[2])
    await eventually(lambda: not connections_to(port), "the refused connections are closed")


async def test_tls_is_not_spoken_by_an_open_broker(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    settings = KafkaSettings(kafka_bootstrap_servers=running.kafka.bootstrap, kafka_security_protocol="SSL")
    await refused(settings, r"KAFKA_SECURITY_PROTOCOL \(SSL\)", caplog)


def connections_to(port: int) -> list[object]:
    """What is open from here to a port."""
    return [one for one in psutil.Process().net_connections("tcp") if one.raddr[1:] == (port,)]


def memory(kafka: ApacheKafka) -> list[int]:
    """Resident MB of each broker."""
    return [psutil.Process(child.pid).memory_info().rss // 1_000_000 for child in kafka.processes]
