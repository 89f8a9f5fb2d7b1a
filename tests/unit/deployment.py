"""Reads the files in `deploy/`, and tells what each command reads from its environment."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
import yaml
from cryptography.fernet import Fernet
from pydantic_settings import BaseSettings

from services.api_gateway.settings import GatewaySettings
from services.cli import app
from services.runtime.settings import KafkaSettings, PostgresSettings
from services.session_tracker.settings import SweeperSettings, TrackerSettings
from services.webhook_dispatcher.settings import DispatcherSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

PROCESSES: Mapping[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "dispatcher": DispatcherSettings,
    "tracker": TrackerSettings,
    "sweeper": SweeperSettings,
}
"""The commands that run until they are stopped."""

SETTINGS: Mapping[str, tuple[type[BaseSettings], ...]] = {
    **{name: (settings,) for name, settings in PROCESSES.items()},
    "migrate": (KafkaSettings, PostgresSettings),
}
"""What each deployed command loads."""

SECRETS = {
    "DATABASE_URL": "postgresql://chat_sessions:secret@postgres/chat_sessions",
    "JWT_SECRET": "s" * 32,
    "PERSONA_SECRETS_KEY": Fernet.generate_key().decode(),
}

IMAGE_ENVIRONMENT = {"GATEWAY_HOST", "OPS_HOST"}
"""Set in the image for every command, whether it reads them or not."""

MADE_FOR_ONE_MACHINE = {"KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL"}
"""Settings whose defaults are of use on one machine only: a deployment must set them."""


def commands() -> set[str]:
    """The commands of `chat-sessions`."""
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def fields(command: str) -> set[str]:
    """The environment variables that a command reads."""
    return {name.upper() for settings in SETTINGS[command] for name in settings.model_fields}


def check_environment(command: str, environment: Mapping[str, str], monkeypatch: Any) -> None:
    """Fail unless the command would start with exactly this environment, and reads all of it."""
    assert set(environment) <= fields(command), f"{command} does not read all that is set for it"
    assert MADE_FOR_ONE_MACHINE & fields(command) <= set(environment)
    for name in set().union(*map(fields, SETTINGS)):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for settings in SETTINGS[command]:
        settings()


def default_port(command: str) -> int:
    """Where a process serves health and metrics if nothing else is set."""
    fields_ = PROCESSES[command].model_fields
    port: int = fields_["gateway_port" if command == "gateway" else "ops_port"].default
    return port


def load_yaml(path: Path) -> Any:
    """The one document of a file."""
    return yaml.safe_load(path.read_text())


def load_manifests(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file."""
    yield from yaml.safe_load_all(path.read_text())
