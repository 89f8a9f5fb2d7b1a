"""What all processes read from the environment. Each service adds its own settings in its `settings.py`."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Literal, Self, TypeVar

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from services.contracts.callbacks import CallbackUrls
from services.runtime.egress import EgressRules
from services.runtime.kafka_security import KafkaSecuritySettings
from services.runtime.plain_words import plain
from services.runtime.pseudonyms import Pseudonyms
from services.runtime.secret_files import SUFFIX, from_files

SettingsType = TypeVar("SettingsType", bound=BaseSettings)

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\s@/?#:,\[\]]*)(:\d{1,5})?"
_DATABASE_URL = re.compile(
    rf"(postgres|postgresql|postgresql\+asyncpg)://([^\s@/?#]*@)?{_HOST}(,{_HOST})*"
    r"(/[^\s?#]*)?(\?[^\s=&#]+=[^\s&#]*(&[^\s=&#]+=[^\s&#]*)*)?"
)
"""What the driver can read: its own complaint about anything else may show a part of the password."""

_BASE_URL = r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$"
"""A URL to which paths are added; empty where there is none."""

_BROKER = r"\s*(\[[0-9A-Fa-f:.]+\]|[^\s@/?#:,\[\]]+):\d{1,5}\s*"
_BROKERS = re.compile(rf"{_BROKER}(,{_BROKER})*")


class WrongSettings(Exception):
    """The environment's settings cannot be used; `problems` are whole sentences that do not show values."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


class KafkaSettings(KafkaSecuritySettings):
    """How to reach Kafka, and how its consumers and producers behave."""

    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", description="Brokers, `host:port`, separated by commas")
    kafka_idempotence: bool = Field(True, description="Idempotent producers; the embedded broker cannot")
    kafka_session_timeout_ms: int = Field(
        10_000, ge=500, le=300_000, description="How long a consumer may be silent before its group goes on without it"
    )
    kafka_rebalance_timeout_ms: int = Field(
        60_000, ge=1_000, le=600_000, description="How long a rebalance waits for consumers to drain"
    )
    kafka_fetch_max_wait_ms: int = Field(
        500, ge=1, le=10_000, description="How long a broker may wait for records before it answers a fetch"
    )
    kafka_replication_factor: int = Field(
        0, ge=0, le=10, description="Of the topics that `migrate` creates; 0 is three, or as many as there are brokers"
    )

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _addresses(cls, brokers: str) -> str:
        if not _BROKERS.fullmatch(brokers):
            raise ValueError("it must be host:port, or several separated by commas")
        return brokers


class PostgresSettings(BaseSettings):
    """How to reach PostgreSQL."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: SecretStr = Field(
        SecretStr("postgresql+asyncpg://chat_sessions@127.0.0.1/chat_sessions"),
        description="PostgreSQL, as a URL; `?sslmode=…` and the like as libpq has them",
    )

    @field_validator("database_url")
    @classmethod
    def _readable(cls, url: SecretStr) -> SecretStr:
        if not _DATABASE_URL.fullmatch(url.get_secret_value()):
            raise ValueError(
                "it must be like postgresql://USER:PASSWORD@HOST:5432/DATABASE, special characters written as %XX"
            )
        return url


class PseudonymSettings(BaseSettings):
    """What the gateway and the tracker, which both name end users where their ids must not stay, must agree on."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    user_hash_key: SecretStr | None = Field(
        None,
        description="Key, at least 32 bytes, of the hashes that name end users in the audit log, and erased ones in "
        "statistics; without it they are all unnamed",
    )

    @field_validator("user_hash_key")
    @classmethod
    def _long_enough_to_hash(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value().encode()) < 32:
            raise ValueError("it needs at least 32 bytes")
        return key

    @property
    def pseudonyms(self) -> Pseudonyms:
        """What names end users."""
        return Pseudonyms(None if self.user_hash_key is None else self.user_hash_key.get_secret_value().encode())


class PersonaSettings(BaseSettings):
    """What the gateway, which stores personas, and the dispatcher, which calls them, must agree on."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    egress_allow_cidrs: str = Field(
        "",
        description="Networks, in CIDR notation and separated by commas, that webhooks may be on beside public ones",
    )
    persona_secrets_key: SecretStr | None = Field(
        None, description="Fernet key that encrypts the personas' credentials; without it personas have none"
    )
    callback_base_url: str = Field(
        "",
        pattern=_BASE_URL,
        max_length=2048,
        description="Where workflows reach the gateway; without it personas cannot reply by callback",
    )

    @field_validator("egress_allow_cidrs")
    @classmethod
    def _networks(cls, cidrs: str) -> str:
        EgressRules.parse(cidrs.split(","))
        return cidrs

    @field_validator("persona_secrets_key")
    @classmethod
    def _fernet_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            try:
                Fernet(key.get_secret_value())
            except ValueError:
                raise ValueError("it must be a Fernet key: 32 bytes in URL-safe base64") from None
        return key

    @model_validator(mode="after")
    def _callbacks_are_secret(self) -> Self:
        if self.callback_base_url and self.persona_secrets_key is None:
            raise ValueError("CALLBACK_BASE_URL needs PERSONA_SECRETS_KEY, which keeps callback URLs unguessable")
        return self

    @property
    def egress_rules(self) -> EgressRules:
        """Where webhooks may be."""
        return EgressRules.parse(self.egress_allow_cidrs.split(","))

    @property
    def secrets_key(self) -> Fernet | None:
        """What encrypts the personas' credentials."""
        return None if self.persona_secrets_key is None else Fernet(self.persona_secrets_key.get_secret_value())

    @property
    def callback_urls(self) -> CallbackUrls | None:
        """What makes and reads callback URLs; None where replies by callback are not set up."""
        if not self.callback_base_url or self.persona_secrets_key is None:
            return None
        return CallbackUrls(self.callback_base_url, self.persona_secrets_key.get_secret_value().encode())


class TimeoutSettings(BaseSettings):
    """What the tracker, which times sessions out, and the dispatcher, which calls none that old, must agree on."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    chat_session_timeout_hours: float = Field(
        24,
        gt=0,
        le=24 * 366,
        description="Hours without activity after which a sweep ends a session; older messages are not called",
    )


class OpsSettings(BaseSettings):
    """Logs and traces of a process, and how it stops."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe line to log")
    log_format: Literal["json", "text"] = Field("json", description="One JSON object a line, or text for people")
    otel_exporter_otlp_endpoint: str = Field(
        "",
        pattern=_BASE_URL,
        max_length=2048,
        description="Base URL of an OpenTelemetry collector that takes OTLP over HTTP; without it traces go nowhere",
    )
    stop_limit_seconds: float = Field(
        0,
        ge=0,
        le=3_600,
        description="After SIGTERM the process ends itself within this, whatever hangs, and says what did: some "
        "seconds less than the platform waits before it kills; 0 leaves that to the platform",
    )


def load(settings: type[SettingsType]) -> SettingsType:
    """Read `settings` from the environment.

    A wrong value stops the process with exit code 2 and one line a problem on stderr; values are not shown, since
    they may be secrets.
    """
    try:
        return read_settings(settings)
    except WrongSettings as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


def read_settings(settings: type[SettingsType]) -> SettingsType:
    """Read `settings` from the environment, secrets also from the files that it names, or raise WrongSettings.

    An empty variable is as one that is not set: so orchestrators pass on what they were not given.
    """
    secrets, unusable = from_files(settings, os.environ)
    if unusable:
        raise WrongSettings(unusable)
    try:
        return settings(_env_ignore_empty=True, **secrets)  # type: ignore[arg-type]  # these are fields of its own
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise WrongSettings([_line(problem["loc"], problem["msg"]) for problem in problems]) from None
    except SettingsError as error:
        raise WrongSettings([f"The settings cannot be read: {error}."]) from None


def _line(location: tuple[int | str, ...], told: str) -> str:
    message = plain(told).rstrip(".")
    if not location:
        return f"The settings do not fit together: {message}."
    name = str(location[0]).upper()
    if os.environ.get(f"{name}{SUFFIX}"):
        return f"{name}, which {name}{SUFFIX} holds, is wrong: {message}."
    return f"{name} {'is' if name in os.environ else 'is not set and is'} wrong: {message}."
