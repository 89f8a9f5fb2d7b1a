"""A real n8n on this machine, with the persona workflows of `deploy/n8n` published.

`python -m services.local.n8n` installs it (several minutes and 4 GB, once), runs it in the foreground and says how to
point the system at it. It listens on 127.0.0.1 only and reports nothing to anyone.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx

from services.local.data_directory import (
    AlreadyRunningError,
    UnusableDirectoryError,
    default_data_directory,
    open_data_directory,
)
from services.local.n8n_artifacts import N8N_FILES, N8nArtifacts, N8nMissingError, n8n_artifacts
from services.local.n8n_workflows import import_workflows, kept_credentials, workflow_paths
from services.local.processes import (
    ChildProcess,
    PortBusyError,
    ProcessEndedError,
    ensure_port_is_free,
    free_port,
    start_process,
)
from services.local.reaper import Reaper, start_reaper
from services.local.signals import StopRequested, ignore_signals, stop_on_signals

WORKFLOWS = N8N_FILES / "workflows"

_START_SECONDS = 180.0
_STOP_SECONDS = 15.0
_PORT = 5678


@dataclass(frozen=True, slots=True)
class RealN8n:
    """A running n8n; `url` is what stands before `/webhook/PATH`."""

    url: str
    process: ChildProcess

    def stop(self) -> None:
        """Let it finish what runs, at most 15 s."""
        self.process.stop(_STOP_SECONDS)


def default_n8n_directory() -> Path:
    """Where n8n keeps its data unless told otherwise."""
    # Beside that of `up`, not in it: whoever deletes that to begin anew keeps their workflows.
    return default_data_directory().with_name("chat-sessions-n8n")


def start_n8n(
    directory: Path,
    artifacts: N8nArtifacts,
    port: int,
    reaper: Reaper,
    say: Callable[[str], None],
    settings: Mapping[str, str] | None = None,
) -> RealN8n:
    """Start n8n on 127.0.0.1:`port` with everything it keeps in `directory`, and return once its webhooks answer.

    The workflows are imported and published first where that has not been done. `settings` are further environment
    variables of n8n. Raises PortBusyError, ProcessEndedError, or TimeoutError after 180 s.
    """
    ensure_port_is_free(port, "n8n")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {**_environment(directory, artifacts, port), **(settings or {})}
    import_workflows(artifacts, WORKFLOWS, directory, environment, reaper, say)
    process = start_process(
        "n8n",
        artifacts.command("start"),
        environment=environment,
        log_path=directory / "n8n.log",
        reaper=reaper,
    )
    running = RealN8n(f"http://127.0.0.1:{port}", process)
    try:
        _wait_for_webhooks(running)
    except BaseException:
        process.stop(0)
        raise
    return running


def _environment(directory: Path, artifacts: N8nArtifacts, port: int) -> dict[str, str]:
    """n8n's whole environment: nothing of the caller's, for n8n's workflows can read it."""
    return {
        "PATH": f"{artifacts.node.parent}{os.pathsep}{os.defpath}",
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        # As in n8n's own image. Otherwise its errors carry stack traces.
        "NODE_ENV": "production",
        "NODE_COMPILE_CACHE": str(artifacts.compiled),
        "N8N_USER_FOLDER": str(directory),
        "N8N_PORT": str(port),
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_RUNNERS_BROKER_PORT": str(free_port()),
        "N8N_DIAGNOSTICS_ENABLED": "false",
        "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
        "N8N_TEMPLATES_ENABLED": "false",
        "N8N_PERSONALIZATION_ENABLED": "false",
        # It would ask n8n's own servers for its list.
        "N8N_DISABLED_MODULES": "mcp-registry",
    }


def _wait_for_webhooks(running: RealN8n) -> None:
    """Wait until every workflow's webhook is registered. Asking for its methods starts no workflow."""
    give_up = time.monotonic() + _START_SECONDS
    waiting = workflow_paths(WORKFLOWS)
    with httpx.Client(base_url=running.url, timeout=5, trust_env=False) as client:
        while waiting := [path for path in waiting if not _is_registered(client, path)]:
            running.process.ensure_running()
            if time.monotonic() > give_up:
                raise TimeoutError(
                    f"n8n did not register {', '.join(waiting)} within {_START_SECONDS:.0f} s; "
                    f"its log is {running.process.log_path}."
                )
            time.sleep(0.2)


def _is_registered(client: httpx.Client, path: str) -> bool:
    try:
        answer = client.options(f"/webhook/{path}", headers={"origin": "http://127.0.0.1"})
    except httpx.HTTPError:
        return False
    methods = answer.headers.get("access-control-allow-methods", "")
    return any(method in methods for method in ("POST", "GET"))


def main() -> int:
    """Run n8n until SIGINT or SIGTERM; 1 after a failure, which was shown in plain words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=_PORT, help="where to listen on 127.0.0.1")
    parser.add_argument("--data-dir", type=Path, default=default_n8n_directory(), help="what n8n keeps")
    options = parser.parse_args()
    stop_on_signals()
    try:
        directory = open_data_directory(options.data_dir)
        reaper = start_reaper(keep_open=[directory.lock])
    except AlreadyRunningError:
        _say(f"Another n8n runs on {options.data_dir}: stop it, or give another --data-dir.")
        return 1
    except UnusableDirectoryError as error:
        _say(str(error))
        return 1
    except StopRequested:
        return 0
    try:
        _run(directory.path, options.port, reaper)
    except StopRequested:
        return 0
    except (N8nMissingError, PortBusyError, ProcessEndedError, TimeoutError) as error:
        _say(str(error))
        return 1
    finally:
        ignore_signals()
        reaper.close()


def _run(directory: Path, port: int, reaper: Reaper) -> NoReturn:
    artifacts = n8n_artifacts(directory / "install.log", reaper, _say)
    running = start_n8n(directory, artifacts, port, reaper, _say)
    try:
        _greet(running.url, directory)
        while True:
            running.process.ensure_running()
            time.sleep(0.2)
    finally:
        _say("Stopping n8n.")
        running.stop()


def _greet(url: str, directory: Path) -> None:
    credentials = kept_credentials(directory)
    _say(
        f"\nn8n is ready: {url} (open it in a browser to see and change the workflows;\n"
        "it asks for an owner account first, which stays on this machine)\n"
        f"Webhooks at {url}/webhook/: {', '.join(workflow_paths(WORKFLOWS))}\n\n"
        f"Start the system against it, in another terminal:\n  .venv/bin/chat-sessions up --n8n {url}\n\n"
        f"header-auth wants the header {credentials.header_name}; its value, and what basic-auth and jwt-auth want, "
        f"is in {directory / 'webhook-credentials.json'}.\n"
        f"The log is {directory / 'n8n.log'}. Ctrl-C stops n8n."
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
