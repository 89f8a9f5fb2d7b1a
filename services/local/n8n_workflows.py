"""The persona workflows of `deploy/n8n` in an n8n that does not run yet: credentials, import, publication."""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from services.local.data_directory import write_private
from services.local.n8n_artifacts import N8nArtifacts
from services.local.processes import run_to_end, start_process
from services.local.reaper import Reaper

_COMMAND_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class WebhookCredentials:
    """What the webhooks with authentication ask of their callers; made up anew for every data directory."""

    basic_user: str
    basic_password: str
    header_name: str
    header_value: str
    jwt_secret: str
    """Signs tokens with HS256."""

    def __repr__(self) -> str:
        return "WebhookCredentials(…)"


def kept_credentials(directory: Path) -> WebhookCredentials:
    """The credentials of `directory`, made up at the first call; only the owner of the file can read them."""
    path = directory / "webhook-credentials.json"
    if not path.exists():
        fresh = WebhookCredentials(
            basic_user="persona",
            basic_password=secrets.token_urlsafe(24),
            header_name="X-Persona-Key",
            header_value=secrets.token_urlsafe(24),
            jwt_secret=secrets.token_urlsafe(48),
        )
        write_private(path, json.dumps(asdict(fresh), indent=2))
    return WebhookCredentials(**json.loads(path.read_text()))


def workflow_paths(workflows: Path) -> list[str]:
    """The webhook paths of the workflows in a directory: each is named for its own."""
    return sorted(file.stem for file in workflows.glob("*.json"))


def import_workflows(
    artifacts: N8nArtifacts,
    workflows: Path,
    directory: Path,
    environment: Mapping[str, str],
    reaper: Reaper,
    say: Callable[[str], None],
) -> None:
    """Import and publish every workflow of `workflows` (about 2 s each) where that has not been done in `directory`.

    n8n must not run on `directory` meanwhile. Raises ProcessEndedError if n8n refuses one.
    """
    credentials = _as_n8n_reads_them(kept_credentials(directory))
    done = directory / "imported"
    wanted = _fingerprint(workflows, artifacts)
    if done.exists() and done.read_text() == wanted:
        return

    def run(*arguments: str) -> None:
        child = start_process(
            f"n8n {arguments[0]}",
            artifacts.command(*arguments),
            environment=environment,
            log_path=directory / "n8n-import.log",
            reaper=reaper,
        )
        run_to_end(child, _COMMAND_SECONDS)

    paths = workflow_paths(workflows)
    say(f"Importing {len(paths)} workflows: about {2 * len(paths) + 10} s, once.")
    handed_over = directory / "credentials-for-import.json"
    try:
        write_private(handed_over, json.dumps(credentials, indent=2))
        run("import:credentials", f"--input={handed_over}")
    finally:
        handed_over.unlink(missing_ok=True)
    run("import:workflow", "--separate", f"--input={workflows}")
    for path in paths:
        run("publish:workflow", f"--id={_workflow_id(workflows / f'{path}.json')}")
    done.write_text(wanted)


def _as_n8n_reads_them(credentials: WebhookCredentials) -> list[dict[str, object]]:
    """The credentials under the ids by which the workflows name them."""
    basic = {"user": credentials.basic_user, "password": credentials.basic_password}
    header = {"name": credentials.header_name, "value": credentials.header_value}
    jwt = {"keyType": "passphrase", "secret": credentials.jwt_secret, "algorithm": "HS256"}
    return [
        {"id": "chat-basic-auth", "name": "Persona: basic authentication", "type": "httpBasicAuth", "data": basic},
        {"id": "chat-header-auth", "name": "Persona: header authentication", "type": "httpHeaderAuth", "data": header},
        {"id": "chat-jwt-auth", "name": "Persona: JWT authentication", "type": "jwtAuth", "data": jwt},
    ]


def _workflow_id(file: Path) -> str:
    return str(json.loads(file.read_text())["id"])


def _fingerprint(workflows: Path, artifacts: N8nArtifacts) -> str:
    digest = hashlib.sha256(str(artifacts.script).encode())
    for path in workflow_paths(workflows):
        digest.update((workflows / f"{path}.json").read_bytes())
    return digest.hexdigest()
