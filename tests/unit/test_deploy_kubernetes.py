"""The manifests are valid, start every process with settings that it reads, and let only the dispatcher out."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.contracts.topics import DISPATCHER_GROUP, PARTITIONS, TRACKER_GROUP
from services.runtime.egress import EgressRules
from services.webhook_dispatcher.settings import DispatcherSettings
from tests.unit.deployment import (
    DEPLOY,
    PROCESSES,
    ROOT,
    SECRETS,
    SETTINGS,
    check_environment,
    default_port,
    load_manifests,
    load_yaml,
)

BASE = DEPLOY / "kubernetes" / "base"
JWKS = DEPLOY / "kubernetes" / "examples" / "jwks"
COMPONENT = "app.kubernetes.io/component"
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.31", kubernetes_validate.latest_version()

Manifest = Mapping[str, Any]


def manifests(folder: Path = BASE) -> list[Manifest]:
    """What the kustomization of a folder lists, without what it takes from other folders."""
    listed = [folder / name for name in load_yaml(folder / "kustomization.yaml")["resources"]]
    return [manifest for path in listed if path.is_file() for manifest in load_manifests(path)]


def of_kind(kind: str, folder: Path = BASE) -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests(folder) if manifest["kind"] == kind}


def pod(command: str) -> Any:
    kind = "Job" if command == "migrate" else "Deployment"
    return of_kind(kind)[command]["spec"]["template"]


def container(command: str) -> Any:
    (found,) = pod(command)["spec"]["containers"]
    return found


def rendered(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder; skips the test where there is no kubectl."""
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed: the manifests were checked one by one, as they are written")
    ran = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def environment(spec: Manifest, config_maps: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What a container finds in its environment, with secrets of the tests."""
    found: dict[str, str] = {}
    for source in spec.get("envFrom", []):
        found |= config_maps[source["configMapRef"]["name"]]
    for entry in spec.get("env", []):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            secret = entry["valueFrom"]["secretKeyRef"]
            assert secret["name"] == "chat-sessions"
            found[entry["name"]] = SECRETS[secret["key"]]
    return found


def written_config_maps() -> dict[str, dict[str, str]]:
    generators = load_yaml(BASE / "kustomization.yaml")["configMapGenerator"]
    return {
        generator["name"]: dict(literal.split("=", 1) for literal in generator["literals"]) for generator in generators
    }


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector takes these labels; an empty one takes everything."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def ways_out(command: str, policies: Mapping[str, Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """The peers, with the rule that names each, that a process may connect to."""
    labels = pod(command)["metadata"]["labels"]
    for policy in policies.values():
        if selects(policy["spec"]["podSelector"], labels):
            for rule in policy["spec"].get("egress", []):
                assert rule["to"], "a rule without peers allows them all"
                assert rule["ports"], "a rule without ports allows them all"
                for peer in rule["to"]:
                    yield peer, rule


@pytest.mark.parametrize("folder", [BASE, JWKS], ids=lambda folder: folder.name)
def test_every_file_is_listed_and_exists(folder: Path) -> None:
    kustomization = load_yaml(folder / "kustomization.yaml")
    listed = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))}
    assert all((folder / name).exists() for name in listed)
    inside = {name for name in listed if not name.startswith("..")}
    assert {path.name for path in folder.iterdir()} == inside | {"kustomization.yaml"}


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize("folder", [BASE, JWKS], ids=lambda folder: folder.name)
def test_every_manifest_fits_its_schema(folder: Path, version: str) -> None:
    assert manifests(folder)
    for manifest in manifests(folder):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", [BASE, JWKS], ids=lambda folder: folder.name)
def test_kustomize_renders_what_is_valid_and_hangs_together(folder: Path) -> None:
    made = rendered(folder)
    config_maps = {manifest["metadata"]["name"] for manifest in made if manifest["kind"] == "ConfigMap"}
    for manifest in made:
        kubernetes_validate.validate(manifest, NEWEST_KUBERNETES, strict=True)
        if manifest["kind"] in {"Deployment", "Job"}:
            (spec,) = manifest["spec"]["template"]["spec"]["containers"]
            assert {source["configMapRef"]["name"] for source in spec["envFrom"]} <= config_maps
            assert spec["image"] == f"chat-sessions:{project_version()}"


def project_version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def test_the_image_is_of_this_version() -> None:
    (image,) = load_yaml(BASE / "kustomization.yaml")["images"]
    assert image == {"name": "chat-sessions", "newTag": project_version()}
    assert {container(command)["image"] for command in SETTINGS} == {"chat-sessions"}


def test_it_runs_everything() -> None:
    assert set(of_kind("Deployment")) == set(PROCESSES)
    assert set(of_kind("Job")) == {"migrate"}


@pytest.mark.parametrize("command", SETTINGS)
def test_a_process_starts_with_what_is_set(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = container(command)
    assert spec["args"] == [command]
    assert "command" not in spec, "the image's entry point is the command"
    check_environment(command, environment(spec, written_config_maps()), monkeypatch)
    # Else the variables of a Service named gateway would set GATEWAY_PORT.
    assert pod(command)["spec"]["enableServiceLinks"] is False


def test_with_an_identity_provider_the_gateway_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rendered(JWKS)
    config_maps = {m["metadata"]["name"]: m["data"] for m in made if m["kind"] == "ConfigMap"}
    (gateway,) = [m for m in made if m["kind"] == "Deployment" and m["metadata"]["name"] == "gateway"]
    (spec,) = gateway["spec"]["template"]["spec"]["containers"]
    found = environment(spec, config_maps)
    assert "JWT_SECRET" not in found
    assert found["JWT_JWKS_URL"].startswith("https://")
    check_environment("gateway", found, monkeypatch)


def test_secrets_are_referred_to_and_never_written() -> None:
    assert of_kind("Secret") == {}
    told = "".join(path.read_text() for path in (DEPLOY / "kubernetes").rglob("*.yaml"))
    assert not re.search(r"postgres(ql)?(\+asyncpg)?://", told)
    # A process is given only what it reads.
    for command in SETTINGS:
        named = {entry["name"] for entry in container(command).get("env", []) if "valueFrom" in entry}
        assert all(
            entry["valueFrom"]["secretKeyRef"]["key"] == entry["name"]
            for entry in container(command).get("env", [])
            if "valueFrom" in entry
        )
        assert named <= set(SECRETS)


@pytest.mark.parametrize("command", SETTINGS)
def test_a_process_is_confined(command: str) -> None:
    spec = pod(command)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert (
        f"USER {spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}\n"
        in (DEPLOY / "Dockerfile").read_text()
    )
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(command)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container(command)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "memory" in resources["limits"]


@pytest.mark.parametrize("command", PROCESSES)
def test_a_process_is_probed_and_served_where_it_listens(command: str) -> None:
    spec = container(command)
    (port,) = spec["ports"]
    assert port["containerPort"] == default_port(command)
    for probe, path in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
        assert spec[probe]["httpGet"] == {"path": f"/health/{path}", "port": port["name"]}
    service = of_kind("Service")[command]["spec"]
    assert selects({"matchLabels": service["selector"]}, pod(command)["metadata"]["labels"])
    assert [(entry["port"], entry["targetPort"]) for entry in service["ports"]] == [
        (default_port(command), port["name"])
    ]


def test_the_dispatcher_is_given_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(container("dispatcher"), written_config_maps()).items():
        monkeypatch.setenv(name, value)
    settings = DispatcherSettings()
    needed = settings.rebalance_drain_seconds + settings.dispatcher_stop_seconds
    assert pod("dispatcher")["spec"]["terminationGracePeriodSeconds"] >= needed + 10


def test_the_others_are_given_time_to_drain() -> None:
    pause = container("gateway")["lifecycle"]["preStop"]["sleep"]["seconds"]
    # Running requests 10 s, the producer 8 s.
    assert pod("gateway")["spec"]["terminationGracePeriodSeconds"] >= pause + 18 + 10
    assert pod("tracker")["spec"]["terminationGracePeriodSeconds"] >= 30
    assert pod("sweeper")["spec"]["terminationGracePeriodSeconds"] >= 30


def test_disruptions_take_one_of_many_at_a_time() -> None:
    budgets = of_kind("PodDisruptionBudget")
    # One sweeper is enough: it may be away for a while.
    assert set(budgets) == set(PROCESSES) - {"sweeper"}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert selects(budget["spec"]["selector"], pod(name)["metadata"]["labels"])
    assert of_kind("Deployment")["gateway"]["spec"]["replicas"] >= 2


def test_consumers_are_scaled_by_their_own_lag() -> None:
    scalers = of_kind("HorizontalPodAutoscaler")
    groups = {"dispatcher": DISPATCHER_GROUP, "tracker": TRACKER_GROUP}
    assert set(scalers) == set(groups)
    for name, scaler in scalers.items():
        spec = scaler["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert 2 <= spec["minReplicas"] <= spec["maxReplicas"] == PARTITIONS
        (metric,) = spec["metrics"]
        assert metric["pods"]["metric"] == {
            "name": "chat_consumer_lag_records",
            "selector": {"matchLabels": {"group": groups[name]}},
        }
        assert "replicas" not in of_kind("Deployment")[name]["spec"], "each apply would undo the autoscaler"


def test_what_the_migration_needs_can_be_applied_before_the_rest() -> None:
    # The README applies the components `shared` and `migrate` first.
    generators = {entry["name"]: entry for entry in load_yaml(BASE / "kustomization.yaml")["configMapGenerator"]}
    for source in container("migrate")["envFrom"]:
        options = generators[source["configMapRef"]["name"]]["options"]
        assert options["labels"][COMPONENT] == "shared"
    early = [*of_kind("Namespace").values(), *of_kind("NetworkPolicy").values()]
    assert {manifest["metadata"]["labels"][COMPONENT] for manifest in early} == {"shared"}
    assert of_kind("Job")["migrate"]["metadata"]["labels"][COMPONENT] == "migrate"


def test_nothing_is_open_that_no_policy_opens() -> None:
    denial = of_kind("NetworkPolicy")["default-deny"]["spec"]
    assert denial == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("command", SETTINGS)
def test_only_the_dispatcher_may_leave_the_cluster(command: str) -> None:
    outside = [peer for peer, _ in ways_out(command, of_kind("NetworkPolicy")) if "ipBlock" in peer]
    inside = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer, _ in ways_out(command, of_kind("NetworkPolicy"))
        if "ipBlock" not in peer
    ]
    assert bool(outside) == (command == "dispatcher")
    assert set(inside) == {"kube-system", "kafka"} | (set() if command == "sweeper" else {"postgres"})


def test_the_dispatcher_reaches_public_addresses_only() -> None:
    blocks = [peer["ipBlock"] for peer, _ in ways_out("dispatcher", of_kind("NetworkPolicy")) if "ipBlock" in peer]

    def reaches(address: str) -> bool:
        ip = ip_address(address)
        return any(
            ip in ip_network(block["cidr"]) and not any(ip in ip_network(hole) for hole in block.get("except", []))
            for block in blocks
            if ip.version == ip_network(block["cidr"]).version
        )

    rules = EgressRules()
    public = ["8.8.8.8", "93.184.216.34", "2606:4700::1111"]
    private = [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "127.0.0.1",
        "fd00::1",
        "fe80::1",
        "::1",
    ]
    for address in public + private:
        assert reaches(address) == rules.allows(address) == (address in public), address


def test_an_identity_provider_is_one_address_for_the_gateway_alone() -> None:
    policies = of_kind("NetworkPolicy", JWKS)
    for command in SETTINGS:
        out = list(ways_out(command, policies))
        if command != "gateway":
            assert out == []
            continue
        ((peer, rule),) = out
        assert ip_network(peer["ipBlock"]["cidr"]).num_addresses == 1
        assert rule["ports"] == [{"protocol": "TCP", "port": 443}]


def test_only_the_ingress_and_prometheus_come_in() -> None:
    comers: dict[str, set[str]] = {command: set() for command in SETTINGS}
    for policy in of_kind("NetworkPolicy").values():
        for rule in policy["spec"].get("ingress", []):
            for peer in rule["from"]:
                name = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                for command, found in comers.items():
                    ports = {port["name"] for port in container(command).get("ports", [])}
                    if selects(policy["spec"]["podSelector"], pod(command)["metadata"]["labels"]) and ports & {
                        port["port"] for port in rule["ports"]
                    }:
                        found.add(name)
    assert comers == {
        "gateway": {"ingress-nginx", "monitoring"},
        "dispatcher": {"monitoring"},
        "tracker": {"monitoring"},
        "sweeper": {"monitoring"},
        "migrate": set(),
    }
