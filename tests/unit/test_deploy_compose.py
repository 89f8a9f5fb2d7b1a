"""The compose file is valid, and starts every process with settings that it reads."""

import re
import shutil
import subprocess
import sys
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deployment import DEPLOY, PROCESSES, ROOT, SECRETS, SETTINGS, check_environment, default_port, load_yaml

COMPOSE = DEPLOY / "compose.yaml"
THIRD_PARTY = {"kafka", "postgres", "n8n", "prometheus", "grafana"}
_VARIABLE = re.compile(r"\$\{(\w+):\?[^}]+\}")


def services() -> dict[str, Any]:
    found: dict[str, Any] = load_yaml(COMPOSE)["services"]
    return found


def interpolated(value: str) -> str:
    return _VARIABLE.sub(lambda match: SECRETS.get(match[1], "a1b2c3"), value)


def test_the_file_fits_the_compose_specification() -> None:
    command = [
        *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
        str(COMPOSE),
    ]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_docker_compose_can_read_it(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker with the compose plugin is installed; the schema was checked")
    environment = tmp_path / "environment"
    names = _VARIABLE.findall(COMPOSE.read_text())
    environment.write_text("".join(f"{name}={SECRETS.get(name, 'a1b2c3')}\n" for name in names))
    command = [docker, "compose", "--env-file", str(environment), "--file", str(COMPOSE), "config", "--quiet"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


def test_it_runs_everything() -> None:
    assert set(services()) == set(SETTINGS) | THIRD_PARTY


@pytest.mark.parametrize("command", SETTINGS)
def test_a_process_starts_with_what_is_set(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = services()[command]
    assert service["command"] == [command]
    environment = {name: interpolated(value) for name, value in service["environment"].items()}
    check_environment(command, environment, monkeypatch)


@pytest.mark.parametrize("command", SETTINGS)
def test_a_process_is_confined(command: str) -> None:
    service = services()[command]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("command", PROCESSES)
def test_a_process_waits_for_the_migration_and_shows_its_health(command: str) -> None:
    service = services()[command]
    assert service["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    port = default_port(command)
    assert f"http://127.0.0.1:{port}/health/ready" in service["healthcheck"]["test"][-1]
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_images_are_pinned() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in services().items():
        image, _, tag = service["image"].partition(":")
        if name in SETTINGS:
            assert (image, tag) == ("chat-sessions", version)
        else:
            assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?", tag), f"{name} has no pinned image"
            assert "healthcheck" in service


def test_topics_come_from_the_migration_alone() -> None:
    assert services()["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_no_secret_has_a_default() -> None:
    text = COMPOSE.read_text()
    used = set(_VARIABLE.findall(text))
    assert len(re.findall(r"\$\{", text)) == len(_VARIABLE.findall(text)), "a variable may be empty or has a default"
    example = dict(
        line.split("=", 1)
        for line in (DEPLOY / "example.env").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert set(example) == used
    assert set(example.values()) == {""}
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY$", name):
                assert _VARIABLE.fullmatch(value), f"{name} is written down"


def test_ports_are_open_to_this_machine_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    host_ports = [port.split(":")[1] for port in published]
    assert len(host_ports) == len(set(host_ports))


def test_webhooks_may_reach_n8n_and_nothing_else_inside() -> None:
    compose = load_yaml(COMPOSE)
    address = compose["services"]["n8n"]["networks"]["webhooks"]["ipv4_address"]
    (subnet,) = compose["networks"]["webhooks"]["ipam"]["config"]
    assert ip_address(address) in ip_network(subnet["subnet"])
    for command in ("gateway", "dispatcher"):
        service = compose["services"][command]
        assert service["environment"]["EGRESS_ALLOW_CIDRS"] == f"{address}/32"
        assert "webhooks" in service["networks"]


def test_mounted_files_exist() -> None:
    compose = load_yaml(COMPOSE)
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith("./") else source in compose["volumes"]
