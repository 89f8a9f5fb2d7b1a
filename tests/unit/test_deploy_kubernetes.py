"""The manifests are valid, and start every process with settings that it reads."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import certifi
import kubernetes_validate
import pytest
import yaml

from services.contracts.topics import DISPATCHER_GROUP, PARTITIONS, TRACKER_GROUP
from services.webhook_dispatcher.settings import DispatcherSettings
from tests.unit.deployment import (
    BASE,
    DEPLOY,
    JWKS,
    KUBERNETES,
    PROCESSES,
    ROOT,
    SECRETS,
    SETTINGS,
    Manifest,
    check_environment,
    container,
    default_port,
    load_yaml,
    manifests,
    of_kind,
    pod,
    selects,
)

SECURED_KAFKA = KUBERNETES / "examples" / "secured-kafka"
FOLDERS = pytest.mark.parametrize("folder", [BASE, JWKS, SECURED_KAFKA], ids=lambda folder: folder.name)
COMPONENT = "app.kubernetes.io/component"
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.31", kubernetes_validate.latest_version()


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
        if "configMapRef" in source:
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


@FOLDERS
def test_every_file_is_listed_and_exists(folder: Path) -> None:
    kustomization = load_yaml(folder / "kustomization.yaml")
    listed = {
        *kustomization["resources"],
        *(patch["path"] for patch in kustomization.get("patches", []) if "path" in patch),
    }
    assert all((folder / name).exists() for name in listed)
    inside = {name for name in listed if not name.startswith("..")}
    assert {path.name for path in folder.iterdir()} == inside | {"kustomization.yaml"}


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize("folder", [BASE, JWKS], ids=lambda folder: folder.name)
def test_every_manifest_fits_its_schema(folder: Path, version: str) -> None:
    assert manifests(folder)
    for manifest in manifests(folder):
        kubernetes_validate.validate(manifest, version, strict=True)


@FOLDERS
def test_kustomize_renders_what_is_valid_and_hangs_together(folder: Path) -> None:
    made = rendered(folder)
    config_maps = {manifest["metadata"]["name"] for manifest in made if manifest["kind"] == "ConfigMap"}
    for manifest in made:
        kubernetes_validate.validate(manifest, NEWEST_KUBERNETES, strict=True)
        if manifest["kind"] in {"Deployment", "Job"}:
            (spec,) = manifest["spec"]["template"]["spec"]["containers"]
            named = {source["configMapRef"]["name"] for source in spec["envFrom"] if "configMapRef" in source}
            assert named <= config_maps
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


@pytest.mark.parametrize("command", SETTINGS)
def test_with_a_secured_kafka_each_process_is_a_user_of_its_own(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rendered(SECURED_KAFKA)
    config_maps = {m["metadata"]["name"]: m["data"] for m in made if m["kind"] == "ConfigMap"}
    (template,) = [
        m["spec"]["template"] for m in made if m["kind"] in {"Deployment", "Job"} and m["metadata"]["name"] == command
    ]
    (spec,) = template["spec"]["containers"]
    assert {"secretRef": {"name": f"kafka-{command}"}} in spec["envFrom"]
    found = environment(spec, config_maps)
    (mount,) = spec["volumeMounts"]
    assert Path(found["KAFKA_SSL_CAFILE"]).parent == Path(mount["mountPath"])
    assert [volume["name"] for volume in template["spec"]["volumes"]] == [mount["name"]]
    user = {"KAFKA_SASL_USERNAME": command, "KAFKA_SASL_PASSWORD": "secret", "KAFKA_SSL_CAFILE": certifi.where()}
    check_environment(command, found | user, monkeypatch)


def test_secrets_are_referred_to_and_never_written() -> None:
    assert of_kind("Secret") == {}
    told = "".join(path.read_text() for path in KUBERNETES.rglob("*.yaml"))
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


@pytest.mark.parametrize("command", PROCESSES)
def test_a_process_ends_itself_before_it_is_killed(command: str) -> None:
    limit = float(environment(container(command), written_config_maps())["STOP_LIMIT_SECONDS"])
    sleep = container(command).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert 0 < limit + sleep + 5 <= pod(command)["spec"]["terminationGracePeriodSeconds"]


def test_disruptions_take_one_of_many_at_a_time() -> None:
    budgets = of_kind("PodDisruptionBudget")
    # One sweeper is enough: it may be away for a while.
    assert set(budgets) == set(PROCESSES) - {"sweeper"}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert selects(budget["spec"]["selector"], pod(name)["metadata"]["labels"])


def test_consumers_are_scaled_by_their_own_lag() -> None:
    scalers = of_kind("HorizontalPodAutoscaler")
    groups = {"dispatcher": DISPATCHER_GROUP, "tracker": TRACKER_GROUP}
    assert set(scalers) == {*groups, "gateway"}
    for name, group in groups.items():
        spec = scalers[name]["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert 2 <= spec["minReplicas"] <= spec["maxReplicas"] == PARTITIONS
        (metric,) = spec["metrics"]
        assert metric["pods"]["metric"] == {
            "name": "chat_consumer_lag_records",
            "selector": {"matchLabels": {"group": group}},
        }
        assert "replicas" not in of_kind("Deployment")[name]["spec"], "each apply would undo the autoscaler"


def test_gateways_are_scaled_by_their_cpu() -> None:
    spec = of_kind("HorizontalPodAutoscaler")["gateway"]["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gateway"}
    assert 2 <= spec["minReplicas"] <= spec["maxReplicas"]
    (metric,) = spec["metrics"]
    assert metric["resource"]["target"] == {"type": "AverageValue", "averageValue": "600m"}
    assert "replicas" not in of_kind("Deployment")["gateway"]["spec"], "each apply would undo the autoscaler"


def test_what_the_migration_needs_can_be_applied_before_the_rest() -> None:
    # The README applies the components `shared` and `migrate` first.
    generators = {entry["name"]: entry for entry in load_yaml(BASE / "kustomization.yaml")["configMapGenerator"]}
    for source in container("migrate")["envFrom"]:
        options = generators[source["configMapRef"]["name"]]["options"]
        assert options["labels"][COMPONENT] == "shared"
    early = [*of_kind("Namespace").values(), *of_kind("NetworkPolicy").values()]
    assert {manifest["metadata"]["labels"][COMPONENT] for manifest in early} == {"shared"}
    assert of_kind("Job")["migrate"]["metadata"]["labels"][COMPONENT] == "migrate"


def test_a_release_can_be_rolled_out_process_by_process() -> None:
    (listed,) = re.findall(r"^for component in (.+); do$", (KUBERNETES / "README.md").read_text(), re.MULTILINE)
    # Who reads an event before who writes it.
    assert listed.split() == ["tracker", "dispatcher", "sweeper", "gateway"]
    components = {manifest["metadata"]["labels"][COMPONENT] for manifest in manifests()}
    assert components == {*listed.split(), "shared", "migrate"}
