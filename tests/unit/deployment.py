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
    "USER_HASH_KEY": "k" * 32,
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


KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
JWKS = KUBERNETES / "examples" / "jwks"

Manifest = Mapping[str, Any]


def manifests(folder: Path = BASE) -> list[Manifest]:
    """What the kustomization of a folder lists, without what it takes from other folders."""
    listed = [folder / name for name in load_yaml(folder / "kustomization.yaml")["resources"]]
    return [manifest for path in listed if path.is_file() for manifest in load_manifests(path)]


def of_kind(kind: str, folder: Path = BASE) -> dict[str, Manifest]:
    """The manifests of one kind, by name."""
    return {manifest["metadata"]["name"]: manifest for manifest in manifests(folder) if manifest["kind"] == kind}


def pod(command: str) -> Any:
    """The template of a command's pods."""
    kind = "Job" if command == "migrate" else "Deployment"
    return of_kind(kind)[command]["spec"]["template"]


def container(command: str) -> Any:
    """The one container of a command's pods."""
    (found,) = pod(command)["spec"]["containers"]
    return found


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector takes these labels; an empty one takes everything."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )
