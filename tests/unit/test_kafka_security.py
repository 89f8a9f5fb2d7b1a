"""Contradictory TLS and SASL settings stop the start with one line; agreeing ones reach every client."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from faststream.kafka.security import parse_security

from services.runtime.kafka_security import client_security, faststream_security
from services.runtime.settings import KafkaSettings, load
from tests.certificates import Authority

PASSWORD = "a password that nobody may see"
SCRAM = {
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "chat",
    "KAFKA_SASL_PASSWORD": PASSWORD,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Certificates and keys, good and bad, by name."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority(directory, "authority")
    (certificate, key), (_, other_key) = authority.sign("client"), authority.sign("other")
    garbage, locked_key = directory / "garbage.pem", directory / "locked-key.pem"
    garbage.write_text("no certificate")
    private = load_pem_private_key(key.read_bytes(), None)
    locked = BestAvailableEncryption(b"passphrase")
    locked_key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    both = directory / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return {
        "ca": str(authority.certificate),
        "certificate": str(certificate),
        "key": str(key),
        "other-key": str(other_key),
        "locked-key": str(locked_key),
        "garbage": str(garbage),
        "both": str(both),
        "missing": str(directory / "missing.pem"),
    }


def settings_of(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> KafkaSettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load(KafkaSettings)


CONTRADICTIONS = {
    "a password without SASL": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_PASSWORD": PASSWORD},
        "KAFKA_SASL_PASSWORD means nothing while KAFKA_SECURITY_PROTOCOL is SSL: set that to SASL_SSL",
    ),
    "a user on a plain connection": (
        {"KAFKA_SASL_USERNAME": "chat"},
        "KAFKA_SASL_USERNAME means nothing while KAFKA_SECURITY_PROTOCOL is PLAINTEXT",
    ),
    "authorities without TLS": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SCRAM, "KAFKA_SSL_CAFILE": "ca"},
        "KAFKA_SSL_CAFILE means nothing while KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT: set that to SSL or SASL_SSL",
    ),
    "SASL without anything": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        "SASL_SSL needs KAFKA_SASL_MECHANISM and KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    ),
    "SASL without a password": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "chat"},
        "SASL_SSL needs KAFKA_SASL_PASSWORD",
    ),
    "an empty password": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", **SCRAM, "KAFKA_SASL_PASSWORD": ""},
        "SASL_SSL needs KAFKA_SASL_PASSWORD",
    ),
    "a key without its certificate": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEYFILE": "key"},
        "KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE",
    ),
    "another certificate's key": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERTFILE": "certificate", "KAFKA_SSL_KEYFILE": "other-key"},
        "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE cannot be used (key values mismatch)",
    ),
    "a key with a passphrase": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERTFILE": "certificate", "KAFKA_SSL_KEYFILE": "locked-key"},
        "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE cannot be used",
    ),
    "authorities that are none": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "garbage"},
        "KAFKA_SSL_CAFILE cannot be used",
    ),
    "a file that is not there": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "missing"},
        "KAFKA_SSL_CAFILE is wrong",
    ),
    "an unknown protocol": ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL is wrong"),
    "an unknown mechanism": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", **SCRAM, "KAFKA_SASL_MECHANISM": "GSSAPI"},
        "KAFKA_SASL_MECHANISM is wrong",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_settings_that_contradict_one_another_are_one_line_without_secrets(
    case: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment, expected = CONTRADICTIONS[case]
    with pytest.raises(SystemExit) as stopped:
        settings_of(monkeypatch, {name: files.get(value, value) for name, value in environment.items()})
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert PASSWORD not in line


def test_without_settings_connections_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, {})
    assert client_security(settings) == {"security_protocol": "PLAINTEXT", "ssl_context": None}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_faststream_is_told_what_aiokafka_is_told(
    mechanism: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(
        monkeypatch, {"KAFKA_SECURITY_PROTOCOL": protocol, **SCRAM, "KAFKA_SASL_MECHANISM": mechanism}
    )
    plain, faststream = client_security(settings), parse_security(faststream_security(settings))
    contexts = plain.pop("ssl_context"), faststream.pop("ssl_context")
    assert plain == faststream
    assert plain == {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "chat",
        "sasl_plain_password": PASSWORD,
    }
    assert all((context is not None) == (protocol == "SASL_SSL") for context in contexts)


@pytest.mark.parametrize("pair", [("certificate", "key"), ("both", None)])
def test_tls_verifies_the_broker_and_a_certificate_may_bring_its_key(
    pair: tuple[str, str | None], files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = pair
    environment = {
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CAFILE": files["ca"],
        "KAFKA_SSL_CERTFILE": files[certificate],
        **({"KAFKA_SSL_KEYFILE": files[key]} if key else {}),
    }
    arguments = client_security(settings_of(monkeypatch, environment))
    assert arguments["security_protocol"] == "SSL"
    context = arguments["ssl_context"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    (authority,) = context.get_ca_certs()
    assert Path(files["ca"]).read_text() == ssl.DER_cert_to_PEM_cert(context.get_ca_certs(binary_form=True)[0])
    assert authority["subject"] == ((("commonName", "authority"),),)


def test_a_password_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", **SCRAM})
    assert PASSWORD not in repr(settings) + str(settings.model_dump())
