"""A wrong setting stops the start with one clear line that does not show its value."""

from typing import Self

import pytest
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from services.runtime.settings import KafkaSettings, OpsSettings, PostgresSettings, load


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


@pytest.mark.parametrize(
    ("name", "value", "settings"),
    [
        ("KAFKA_SESSION_TIMEOUT_MS", "sometimes", KafkaSettings),
        ("KAFKA_SESSION_TIMEOUT_MS", "499", KafkaSettings),
        ("KAFKA_REBALANCE_TIMEOUT_MS", "600001", KafkaSettings),
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
