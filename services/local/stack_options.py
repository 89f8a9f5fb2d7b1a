"""What `chat-sessions up` is asked to run, and the environment and programs that follow from it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.local.supervisor import Program
from services.runtime.secret_files import SUFFIX

BrokerKind = Literal["embedded", "kafka", "kafka-cluster"]
"""What can be started here: the embedded broker, Apache Kafka as one broker, or as three."""

_LOOPBACK = "127.0.0.0/8,::1/128"


@dataclass(frozen=True, slots=True)
class StackOptions:
    """The options of `up`; an address that is None is of something started here."""

    port: int
    data_directory: Path
    broker: BrokerKind = "embedded"
    kafka: str | None = None
    database_url: str | None = None
    n8n: str | None = None
    dispatchers: int = 1
    trackers: int = 1


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is, once it runs."""

    gateway_url: str
    kafka: str
    database_url: str
    n8n_url: str


def service_environment(
    outer: Mapping[str, str],
    addresses: Addresses,
    *,
    broker_settings: Mapping[str, str],
    jwt_secret: str,
    persona_secrets_key: str,
    user_hash_key: str,
) -> dict[str, str]:
    """The environment of every service: the caller's own, with the stack's addresses and secrets on top.

    `broker_settings` are those that the broker wants of its clients. Webhooks on this machine are allowed, beside
    what the caller allows; tokens are the stack's own. Callbacks come to this machine unless the caller says otherwise.
    """
    allowed = ",".join(part for part in (outer.get("EGRESS_ALLOW_CIDRS"), _LOOPBACK) if part)
    secrets = {
        "DATABASE_URL": addresses.database_url,
        "JWT_SECRET": jwt_secret,
        "PERSONA_SECRETS_KEY": persona_secrets_key,
        "USER_HASH_KEY": user_hash_key,
    }
    others = {"JWT_JWKS_URL", *(f"{name}{SUFFIX}" for name in secrets)}
    return {
        "LOG_FORMAT": "text",
        **{name: value for name, value in outer.items() if name not in others},
        **broker_settings,
        **secrets,
        "KAFKA_BOOTSTRAP_SERVERS": addresses.kafka,
        "EGRESS_ALLOW_CIDRS": allowed,
        "CALLBACK_BASE_URL": outer.get("CALLBACK_BASE_URL") or addresses.gateway_url,
    }


def service_command(name: str) -> list[str]:
    """How this installation runs `chat-sessions NAME`."""
    return [sys.executable, "-m", "services.cli", name]


def service_names(options: StackOptions) -> dict[str, str]:
    """The services to run: process name to command. The first of a kind bears the plain name."""
    names = {"tracker": "tracker", "dispatcher": "dispatcher", "sweeper": "sweeper", "gateway": "gateway"}
    names |= {f"tracker-{number}": "tracker" for number in range(2, options.trackers + 1)}
    names |= {f"dispatcher-{number}": "dispatcher" for number in range(2, options.dispatchers + 1)}
    return names


def service_program(name: str, command: str, environment: Mapping[str, str], port: int) -> Program:
    """One service on `port` of this machine: the gateway's own, the others' for health and metrics."""
    if command == "gateway":
        own = {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    else:
        own = {"OPS_HOST": "127.0.0.1", "OPS_PORT": str(port)}
    return Program(name, service_command(command), {**environment, **own}, f"http://127.0.0.1:{port}")


def n8n_program(port: int, environment: Mapping[str, str]) -> Program:
    """The stub n8n."""
    command = [sys.executable, "-m", "services.local.n8n_stub", "--port", str(port)]
    return Program("n8n", command, environment, f"http://127.0.0.1:{port}")
