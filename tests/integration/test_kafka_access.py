"""Apache Kafka that asks who its clients are: ours get in with the right settings, and are told what is wrong."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from aiokafka.admin import NewTopic

from services.local.apache_kafka import BRIEF, ApacheKafka, start_apache_kafka
from services.local.kafka_artifacts import KafkaArtifacts
from services.local.kafka_properties import SecuredListener
from services.local.reaper import Reaper
from services.runtime.kafka import build_admin
from services.runtime.settings import KafkaSettings
from services.runtime.topics import TopicsNotCreated, create_topics
from tests.certificates import Authority
from tests.integration.kafka_clients import artifacts_or_skip, consume_as_a_group, publish_numbers, read_values
from tests.integration.kafka_log import eventually, fresh_name

PASSWORD = "kept from every log"
NOT_OURS = r"ended TLS \(.*(CERTIFICATE|UNKNOWN_CA).*\): .*KAFKA_SSL_CERTFILE"


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

    def start(self, artifacts: KafkaArtifacts, reaper: Reaper, listener: SecuredListener) -> None:
        """Start it, behind this listener."""
        place = self.directory
        self.kafka = start_apache_kafka(place, place, reaper, artifacts, secured=listener, java_options=BRIEF)

    def settings(self, **more: object) -> KafkaSettings:
        """Settings for this broker."""
        return KafkaSettings(kafka_bootstrap_servers=self.kafka.bootstrap, kafka_replication_factor=1, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def artifacts(session_directory: Path, reaper: Reaper) -> KafkaArtifacts:
    """Apache Kafka; without it there is nothing to test here."""
    return artifacts_or_skip(session_directory, reaper)


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
    guarded.start(artifacts, reaper, listener)
    yield guarded
    guarded.kafka.stop()


@pytest.fixture(scope="module")
def mutual(artifacts: KafkaArtifacts, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[Guarded]:
    """A broker that wants a client certificate of our authority."""
    guarded = Guarded(tmp_path_factory.mktemp("mutual"))
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(guarded.authority.certificate)}
    listener = SecuredListener("SSL", {**guarded.key_store(), **trust, "ssl.client.auth": "required"})
    guarded.start(artifacts, reaper, listener)
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
    """Admin, producer, group member, reader: none waits, when it stops, for a broker that does not end TLS."""
    began = time.monotonic()
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
    assert time.monotonic() - began < 25


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


async def test_a_broker_without_tls_says_so(mutual: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    (broker,) = mutual.kafka.processes
    ports = {one.laddr.port for one in psutil.Process(broker.pid).net_connections("tcp") if one.status == "LISTEN"}
    plain = min(ports - {int(mutual.kafka.bootstrap.rpartition(":")[2])})
    settings = KafkaSettings(kafka_bootstrap_servers=f"127.0.0.1:{plain}", kafka_security_protocol="SSL")
    await refused(settings, r"closed the connection: .*KAFKA_SECURITY_PROTOCOL \(SSL\)", caplog)


def connections_to(port: int) -> list[object]:
    """What is open from here to a port."""
    return [one for one in psutil.Process().net_connections("tcp") if one.raddr[1:] == (port,)]
