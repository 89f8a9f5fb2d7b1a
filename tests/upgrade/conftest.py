"""The two releases, and what the system of either runs on."""

import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from services.local.broker import EMBEDDED_BROKER_SETTINGS
from services.local.postgres import EmbeddedPostgres
from services.local.processes import free_port, start_process, wait_for_port
from services.local.reaper import Reaper
from services.local.stack_options import Addresses, n8n_program, service_environment
from tests.e2e.local_stack import NO_LIMITS
from tests.engine import on_apache_kafka
from tests.upgrade.releases import NoEarlierCommit, Release, newer_release, older_release

SWEEP_HOURS = "0.002"
"""A sweep every seven seconds, so that every mixture of releases gets some."""


@pytest.fixture(scope="session")
def newer() -> Release:
    return newer_release()


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Release:
    try:
        return older_release(tmp_path_factory.mktemp("older"))
    except NoEarlierCommit as error:
        pytest.skip(f"There is nothing to upgrade from. {error}")


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database without tables."""
    name = f"upgrade_{uuid4().hex}"
    postgres_server.run_sql(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.run_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def n8n_url(tmp_path: Path, reaper: Reaper) -> Iterator[str]:
    port = free_port()
    program = n8n_program(port, os.environ)
    child = start_process(
        program.name, program.command, environment=program.environment, log_path=tmp_path / "n8n.log", reaper=reaper
    )
    wait_for_port(child, port, 20)
    yield program.ops_url
    child.stop(5)


@pytest.fixture
def environment(empty_broker: str, database_url: str, n8n_url: str) -> Mapping[str, str]:
    """What every process of the system has in its environment."""
    broker_settings = {"KAFKA_REPLICATION_FACTOR": "1"} if on_apache_kafka() else EMBEDDED_BROKER_SETTINGS
    addresses = Addresses(f"http://127.0.0.1:{free_port()}", empty_broker, database_url, n8n_url)
    return service_environment(
        {**os.environ, **NO_LIMITS, "CHAT_SESSION_CLEANUP_INTERVAL": SWEEP_HOURS},
        addresses,
        broker_settings=broker_settings,
        jwt_secret=secrets.token_urlsafe(48),
        persona_secrets_key=Fernet.generate_key().decode(),
        user_hash_key=secrets.token_urlsafe(48),
    )
