"""The whole system on a cluster of three brokers, for all tests of this directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.apache_kafka import ApacheKafka, start_apache_kafka
from services.local.kafka_artifacts import kafka_artifacts
from services.local.reaper import Reaper
from tests.e2e.local_stack import NO_LIMITS, Up, start_up


@pytest.fixture(scope="session")
def cluster(session_directory: Path, reaper: Reaper) -> Iterator[ApacheKafka]:
    """Three brokers; each topic is on all of them, and needs two."""
    artifacts = kafka_artifacts(session_directory / "maven.log", reaper)
    running = start_apache_kafka(session_directory, session_directory, reaper, artifacts, brokers=3)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def system(cluster: ApacheKafka, session_directory: Path) -> Iterator[Up]:
    """Everything but the brokers."""
    environment = {**NO_LIMITS, **cluster.client_settings}
    up = start_up(session_directory / "stack", "--kafka", cluster.bootstrap, environment=environment, seconds=120)
    yield up
    assert up.stop() == 0
