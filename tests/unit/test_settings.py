"""A wrong setting stops the start with one clear line that does not show its value."""

from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from services.api_gateway.settings import GatewaySettings
from services.runtime.settings import KafkaSettings, OpsSettings, PostgresSettings, load
from services.runtime.shown_settings import shown
from services.session_tracker.settings import SweeperSettings, TrackerSettings
from services.webhook_dispatcher.settings import DispatcherSettings


class StrictSettings(BaseSettings):
    """Settings as a service might have them."""

    api_secret: SecretStr = Field(min_length=8)
    networks: list[str] = []


class PairedSettings(BaseSettings):
    """Settings of which one needs the other."""

    left: bool = False
    right: bool = False

    @model_validator(mode="after")
    def _both(self) -> Self:
        if self.left != self.right:
            raise ValueError("LEFT needs RIGHT.")
        return self


def refused(settings: type[BaseSettings], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        load(settings)
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9092")
    monkeypatch.setenv("KAFKA_IDEMPOTENCE", "false")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/database")
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    kafka = load(KafkaSettings)
    assert (kafka.kafka_bootstrap_servers, kafka.kafka_idempotence) == ("one:9092,two:9092", False)
    assert load(OpsSettings).log_level == "WARNING"
    assert "secret" not in repr(load(PostgresSettings))


@pytest.mark.parametrize("process", [GatewaySettings, DispatcherSettings, TrackerSettings, SweeperSettings])
def test_an_empty_variable_is_as_one_that_is_not_set(
    process: type[BaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    unset = load(process)
    for name in process.model_fields.keys() - {"jwt_secret"}:
        monkeypatch.setenv(name.upper(), "")
    assert load(process) == unset


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:se%40cret@host/database",
        "postgres://host",
        "postgresql+asyncpg://user@/database?host=/run/postgresql",
        "postgresql://user@one:5432,[::1]:5433/database?sslmode=verify-full&sslrootcert=/etc/ca.pem",
    ],
)
def test_the_forms_of_a_database_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert load(PostgresSettings).database_url.get_secret_value() == url


@pytest.mark.parametrize("brokers", ["kafka.kafka.svc:9093", "one:9092, two:9092", "[::1]:9092", "10.0.0.1:9092"])
def test_the_forms_of_brokers(brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", brokers)
    assert load(KafkaSettings).kafka_bootstrap_servers == brokers


@pytest.mark.parametrize(
    ("name", "value", "settings"),
    [
        ("KAFKA_SESSION_TIMEOUT_MS", "sometimes", KafkaSettings),
        ("KAFKA_SESSION_TIMEOUT_MS", "499", KafkaSettings),
        ("KAFKA_REBALANCE_TIMEOUT_MS", "600001", KafkaSettings),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka.example", KafkaSettings),
        ("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:many", KafkaSettings),
        ("KAFKA_IDEMPOTENCE", "perhaps", KafkaSettings),
        ("LOG_LEVEL", "LOUD", OpsSettings),
        ("DATABASE_URL", "chat_sessions", PostgresSettings),
        ("DATABASE_URL", "mysql://user:secret@host/database", PostgresSettings),
        ("DATABASE_URL", "postgresql://user:se/cret@host/database", PostgresSettings),
        ("DATABASE_URL", "postgresql://user:se@cret@host/database", PostgresSettings),
        ("DATABASE_URL", "postgresql://user:secret@host:port/database", PostgresSettings),
        ("DATABASE_URL", "postgresql://user:secret@host/database?sslmode", PostgresSettings),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it_and_does_not_show_it(
    name: str,
    value: str,
    settings: type[BaseSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    (line,) = refused(settings, capsys)
    assert line.startswith(f"{name} is wrong: ")
    assert line.endswith(".")
    assert value not in line


def test_each_problem_has_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KAFKA_IDEMPOTENCE", "perhaps")
    monkeypatch.setenv("KAFKA_FETCH_MAX_WAIT_MS", "0")
    assert [line.split()[0] for line in refused(KafkaSettings, capsys)] == [
        "KAFKA_IDEMPOTENCE",
        "KAFKA_FETCH_MAX_WAIT_MS",
    ]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("KAFKA_FETCH_MAX_WAIT_MS", "soon", "it must be a whole number."),
        ("KAFKA_FETCH_MAX_WAIT_MS", "0", "it must be at least 1."),
        ("KAFKA_IDEMPOTENCE", "perhaps", "it must be true or false."),
        ("KAFKA_BOOTSTRAP_SERVERS", "one", "it must be host:port, or several separated by commas."),
    ],
)
def test_a_problem_is_told_in_plain_words(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert refused(KafkaSettings, capsys) == [f"{name} is wrong: {told}"]


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("API_SECRET", "hunter2")
    (line,) = refused(StrictSettings, capsys)
    assert line.startswith("API_SECRET is wrong: ")
    assert "hunter2" not in line


def test_a_missing_value_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("API_SECRET", raising=False)
    assert refused(StrictSettings, capsys) == ["API_SECRET is not set and is wrong: Field required."]


def test_a_list_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("API_SECRET", "long enough")
    monkeypatch.setenv("NETWORKS", "10.0.0.0/8")
    (line,) = refused(StrictSettings, capsys)
    assert "networks" in line
    assert "10.0.0.0/8" not in line


def test_settings_that_do_not_fit_together_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEFT", "true")
    assert refused(PairedSettings, capsys) == ["The settings do not fit together: LEFT needs RIGHT."]


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    monkeypatch.setenv("API_SECRET_FILE", str(file))
    for content in (b"of 8 bytes", b"of 8 bytes\n", b"of 8 bytes\r\n"):
        file.write_bytes(content)
        assert load(StrictSettings).api_secret.get_secret_value() == "of 8 bytes"
    file.write_bytes(b" keeps what it is \n\n")
    assert load(StrictSettings).api_secret.get_secret_value() == " keeps what it is \n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "API_SECRET_FILE cannot be read (No such file or directory)."),
        (b"", "API_SECRET_FILE is wrong: the file is empty."),
        (b"\n", "API_SECRET_FILE is wrong: the file is empty."),
        (b"\xff" * 9, "API_SECRET_FILE is wrong: the file must hold text in UTF-8."),
        (b"x" * 70_000, "API_SECRET_FILE is wrong: the file is larger than 65536 bytes."),
        (b"short", "API_SECRET, which API_SECRET_FILE holds, is wrong: Value should have at least 8 items"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    content: bytes | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "secret"
    monkeypatch.setenv("API_SECRET_FILE", str(file))
    if content is not None:
        file.write_bytes(content)
    (line,) = refused(StrictSettings, capsys)
    assert line.startswith(told)


def test_a_secret_and_its_file_are_too_much(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_SECRET", "from the environment")
    monkeypatch.setenv("API_SECRET_FILE", str(tmp_path / "none"))
    assert refused(StrictSettings, capsys) == ["API_SECRET and API_SECRET_FILE are both set: remove one of them."]
    monkeypatch.setenv("API_SECRET_FILE", "")
    assert load(StrictSettings).api_secret.get_secret_value() == "from the environment"


def test_settings_are_shown_without_secrets() -> None:
    settings = GatewaySettings(
        database_url=SecretStr("postgresql://me:se%40cret@one:5432,two:5432/chat?password=secret"),
        jwt_jwks_url="https://me:secret@keys.example/jwks",
        jwt_issuer="https://issuer.example",
        jwt_audience="chat",
        rate_limit_storage=SecretStr("redis://:secret@valkey:6379/0"),
        user_hash_key=SecretStr("secret" * 8),
        kafka_bootstrap_servers="one:9092",
    )
    line = shown(settings)
    assert "secret" not in line.replace("PERSONA_SECRETS_KEY", "")
    for told in (
        "DATABASE_URL=postgresql://***@one:5432,two:5432/chat",
        "JWT_JWKS_URL=https://***@keys.example/jwks",
        "JWT_ISSUER=https://issuer.example",
        "RATE_LIMIT_STORAGE=redis://***@valkey:6379/0",
        "USER_HASH_KEY=***",
        "KAFKA_BOOTSTRAP_SERVERS=one:9092",
        "KAFKA_IDEMPOTENCE=true",
    ):
        assert told in line.split(", ")
    assert "\n" not in line
    assert "JWT_SECRET" not in line


@pytest.mark.parametrize(
    "url", ["redis://:pa?ss@host/0", "redis://:pa/ss@host/0", "redis://:pa#ss@host", "valkey://:p@ss@host"]
)
def test_a_password_that_is_written_wrongly_is_not_shown_either(url: str) -> None:
    settings = GatewaySettings(jwt_secret=SecretStr("s" * 32), rate_limit_storage=SecretStr(url))
    assert "RATE_LIMIT_STORAGE=***," in shown(settings)
    assert "JWT_SECRET=***," in shown(settings)
