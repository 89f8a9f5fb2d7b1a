"""A real n8n for the tests of this folder, which run only where they are asked for: it takes 4 GB and minutes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.n8n import RealN8n, start_n8n
from services.local.n8n_artifacts import N8nArtifacts, n8n_artifacts
from services.local.n8n_workflows import WebhookCredentials, kept_credentials
from services.local.processes import free_port, start_process, wait_for_port
from services.local.reaper import Reaper

ASKED_FOR = "TEST_REAL_N8N"

if not os.environ.get(ASKED_FOR):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def artifacts(session_directory: Path, reaper: Reaper) -> N8nArtifacts:
    """The n8n of the recipe, installed if it was not."""
    return n8n_artifacts(session_directory / "n8n-install.log", reaper, print)


@pytest.fixture(scope="session")
def n8n_directory(session_directory: Path) -> Path:
    """What the n8n of these tests keeps."""
    return session_directory / "n8n"


@pytest.fixture(scope="session")
def real_n8n(n8n_directory: Path, artifacts: N8nArtifacts, reaper: Reaper) -> Iterator[RealN8n]:
    """A real n8n with all workflows, for the whole test run."""
    running = start_n8n(n8n_directory, artifacts, free_port(), reaper, print)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def credentials(real_n8n: RealN8n, n8n_directory: Path) -> WebhookCredentials:
    """What its webhooks with authentication ask for."""
    return kept_credentials(n8n_directory)


@pytest.fixture(scope="session")
def stub_url(session_directory: Path, reaper: Reaper) -> Iterator[str]:
    """The stub n8n's address."""
    port = free_port()
    command = [sys.executable, "-m", "services.local.n8n_stub", "--port", str(port)]
    log_path = session_directory / "n8n-stub.log"
    child = start_process("n8n stub", command, environment={}, log_path=log_path, reaper=reaper)
    wait_for_port(child, port, 20)
    yield f"http://127.0.0.1:{port}"
    child.stop(5)
