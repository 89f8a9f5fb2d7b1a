"""What every test may ask for: a real broker, a real PostgreSQL, the whole running system."""

import asyncio
import contextlib
import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.conn import AIOKafkaProtocol
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from services.database.migrate import migrate
from services.local.apache_kafka import BRIEF, start_apache_kafka
from services.local.broker import start_broker
from services.local.kafka_artifacts import kafka_artifacts
from services.local.postgres import EmbeddedPostgres, start_postgres
from services.local.processes import free_port
from services.local.reaper import Reaper, start_reaper
from services.runtime.loop import Loop
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from tests.engine import empty, empty_of_records, on_apache_kafka

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 * 2**30
_YOUNG_OBJECTS = 10_000
_BROKERS = {"broker", "bootstrap", "empty_broker", "module_bootstrap"}


def pytest_configure() -> None:
    """Keep the test run's files in memory where there is room: brokers wait for the disk at each topic they make."""
    if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # so that it is looked up again


def pytest_collection() -> None:
    """Look for no garbage while everything is imported: nothing of it is any, and the search took a fifth of it."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, yet never again among what was imported."""
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
    gc.enable()


def pytest_report_header() -> str:
    """Say plainly on which broker the tests run, and which do."""
    return "broker: Apache Kafka, for every test that needs one" if on_apache_kafka() else "broker: embedded"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On Apache Kafka leave out what needs no broker, or whichever: it ran with the embedded one."""
    if on_apache_kafka():
        idle = [item for item in items if not _needs_a_broker(item)]
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if _needs_a_broker(item)]


def _needs_a_broker(item: pytest.Item) -> bool:
    if item.get_closest_marker("any_broker"):
        return False
    fixtures = getattr(item, "fixturenames", ())
    return not _BROKERS.isdisjoint(fixtures) or (item.path.parent.name == "e2e" and "any_up" not in fixtures)


class _FileByFile(LoadScopeScheduling):
    """A worker takes a file whole, and all of end to end, for these tests share one running system."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


class _Loop(Loop):
    """Fails a test that leaves a connection open, once it is closed.

    Not for one to Kafka: aiokafka, stopped while its group rebalances, leaves one behind now and then. A client that
    nobody stopped says so itself.
    """

    async def create_connection(self, *arguments: Any, **named: Any) -> Any:
        transport, protocol = await super().create_connection(*arguments, **named)
        if isinstance(protocol, AIOKafkaProtocol):
            self._to_kafka = [*filter(_is_open, getattr(self, "_to_kafka", ())), transport]
        return transport, protocol

    def close(self) -> None:
        left = sum(map(_is_open, getattr(self, "_to_kafka", ())))
        with warnings.catch_warnings(record=True) as unclosed:
            # Raised at once, as warnings are in tests, one would leave the loop waiting for its connection for ever.
            warnings.simplefilter("always")
            super().close()
        for warning in unclosed[left:]:
            raise AssertionError(str(warning.message))


def _is_open(transport: asyncio.BaseTransport) -> bool:
    return not transport.is_closing()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on the event loop that the processes run on."""
    return {"uvloop": _Loop}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _FileByFile:
    """Share the tests out among several workers."""
    return _FileByFile(config, log)


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Ends what the tests started, even when pytest itself is killed."""
    running = start_reaper()
    yield running
    running.close()


@pytest.fixture(scope="session")
def session_directory() -> Iterator[Path]:
    """A directory for the whole test run that the database's own user can enter, unlike pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="chat-sessions-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def broker(session_directory: Path, reaper: Reaper) -> Iterator[str]:
    """The bootstrap address of one broker for the whole test run."""
    if on_apache_kafka():
        artifacts = kafka_artifacts(session_directory / "maven.log", reaper)
        kafka = start_apache_kafka(session_directory, session_directory, reaper, artifacts, java_options=BRIEF)
        yield kafka.bootstrap
        kafka.stop()
    else:
        running = start_broker(free_port(), session_directory / "broker.log", reaper)
        yield running.bootstrap
        running.process.stop(5)


@pytest.fixture(scope="session")
def any_broker(request: pytest.FixtureRequest) -> str:
    """The address of a broker for tests of what reads PostgreSQL alone: once is enough, on whichever broker."""
    address: str = request.getfixturevalue("broker")
    return address


@pytest.fixture
def empty_broker(request: pytest.FixtureRequest, tmp_path: Path, reaper: Reaper) -> Iterator[str]:
    """The bootstrap address of a broker that has no topics and nobody else's clients."""
    if on_apache_kafka():
        # A new one takes seconds.
        address: str = request.getfixturevalue("broker")
        asyncio.run(empty(address))
        yield address
        # Others expect topics of the system to be as they should.
        asyncio.run(empty(address))
    else:
        with _new_broker(tmp_path, reaper) as address:
            yield address


@contextlib.contextmanager
def _new_broker(directory: Path, reaper: Reaper) -> Iterator[str]:
    running = start_broker(free_port(), directory / "broker.log", reaper)
    yield running.bootstrap
    running.process.stop(0)  # it keeps nothing


@pytest.fixture
def bootstrap(request: pytest.FixtureRequest, tmp_path: Path, reaper: Reaper) -> Iterator[str]:
    """The bootstrap address of a broker with the system's topics and nothing in them."""
    with _with_topics(request, tmp_path, reaper) as address:
        yield address


@contextlib.contextmanager
def _with_topics(request: pytest.FixtureRequest, directory: Path, reaper: Reaper) -> Iterator[str]:
    if on_apache_kafka():
        address: str = request.getfixturevalue("broker")
        asyncio.run(empty_of_records(address))
        asyncio.run(_create_topics(address))
        yield address
    else:
        with _new_broker(directory, reaper) as address:
            asyncio.run(_create_topics(address))
            yield address


@pytest.fixture(scope="module")
def module_bootstrap(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper
) -> Iterator[str]:
    """As `bootstrap`, for all tests of a file, none of which may ask for another broker."""
    with _with_topics(request, tmp_path_factory.mktemp("broker"), reaper) as address:
        yield address


@pytest.fixture
def any_bootstrap(request: pytest.FixtureRequest) -> str:
    """As `bootstrap`, for tests whose outcome does not depend on the broker: once is enough, on whichever."""
    address: str = request.getfixturevalue("bootstrap")
    return address


async def _create_topics(address: str) -> None:
    await create_topics(KafkaSettings(kafka_bootstrap_servers=address, kafka_replication_factor=1))


@pytest.fixture(scope="session")
def postgres_server(session_directory: Path, reaper: Reaper) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for the whole test run; its database `chat_sessions` has no tables."""
    # Tests never outlive a crash of the machine, so nothing waits for the disk.
    running = start_postgres(session_directory, session_directory / "postgres.log", reaper, {"fsync": "off"})
    yield running
    running.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a migrated database that others are copied from; nobody may be connected to it."""
    postgres_server.run_sql("CREATE DATABASE migrated")
    asyncio.run(migrate(postgres_server.url("migrated")))
    return "migrated"


@pytest.fixture
def postgres_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The address of a migrated, empty database of the test's own."""
    with _new_database(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """As `postgres_url`, for all tests of a file."""
    with _new_database(postgres_server, migrated_template) as url:
        yield url


@contextlib.contextmanager
def _new_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    server.run_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield server.url(name)
    server.run_sql(f"DROP DATABASE {name} WITH (FORCE)")
