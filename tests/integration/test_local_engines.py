"""The embedded engines do what the rest of the system relies on."""

import os
import shutil
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from services.local.broker import start_broker
from services.local.data_directory import default_data_directory
from services.local.postgres import DATABASE, EmbeddedPostgres, start_postgres
from services.local.postgres_place import PostgresPlace, find_place
from services.local.processes import PortBusyError
from services.local.reaper import Reaper


async def test_broker_keeps_a_record_with_its_key_and_headers(broker: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic("test.local.records", num_partitions=3, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all")
    await producer.start()
    sent = await producer.send_and_wait("test.local.records", b"value", key=b"key", headers=[("h", b"1")])
    await producer.stop()
    consumer = AIOKafkaConsumer("test.local.records", bootstrap_servers=broker, auto_offset_reset="earliest")
    await consumer.start()
    record = await consumer.getone()
    await consumer.stop()
    assert (record.key, record.value, record.headers) == (b"key", b"value", (("h", b"1"),))
    assert (record.partition, record.offset) == (sent.partition, 0)


async def test_the_database_url_serves_sqlalchemy_and_without_the_driver_asyncpg(
    postgres_server: EmbeddedPostgres,
) -> None:
    url = postgres_server.url()
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "on"
    await engine.dispose()
    direct = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    assert await direct.fetchval("SELECT current_database()") == "chat_sessions"
    assert await direct.fetchval("SHOW listen_addresses") == ""
    await direct.close()


def start(directory: Path, reaper: Reaper) -> EmbeddedPostgres:
    return start_postgres(directory, directory / "postgres.log", reaper, {"fsync": "off"})


def test_data_outlives_a_stop_and_a_kill(session_directory: Path, reaper: Reaper) -> None:
    directory = session_directory / "kept"
    directory.mkdir(mode=0o711)
    first = start(directory, reaper)
    assert first.is_new
    first.run_sql("CREATE TABLE kept AS SELECT 1 AS n", DATABASE)
    first.stop()
    second = start(directory, reaper)
    assert not second.is_new
    assert second.run_sql("INSERT INTO kept VALUES (2) RETURNING n", DATABASE) == "2"
    second.process.popen.kill()
    second.process.popen.wait(10)
    # A killed server leaves its pid file behind.
    assert (second.place.data_directory / "postmaster.pid").exists()
    third = start(directory, reaper)
    assert third.run_sql("SELECT sum(n) FROM kept", DATABASE) == "3"
    third.stop()


def test_a_server_left_running_is_ended_and_a_reused_pid_is_no_server(session_directory: Path, reaper: Reaper) -> None:
    directory = session_directory / "left"
    directory.mkdir(mode=0o711)
    left = start(directory, reaper)
    again = start(directory, reaper)
    assert left.process.popen.wait(10) == 0
    again.stop()
    # The pid in the file is this very process: PostgreSQL alone would take it for another server.
    pid_file = again.place.data_directory / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{again.place.data_directory}\n1\n5432\n\n\n\nready   \n")
    shutil.chown(pid_file, again.place.user or os.getuid())
    third = start(directory, reaper)
    assert third.run_sql("SELECT 1") == "1"
    third.stop()


def test_a_directory_that_only_its_owner_enters_works_and_stays_closed(session_directory: Path, reaper: Reaper) -> None:
    closed = session_directory / "closed"
    closed.mkdir(mode=0o700)
    directory = closed / ("long" * 30)
    directory.mkdir(mode=0o700)
    server = start(directory, reaper)
    try:
        assert server.run_sql("SELECT 1") == "1"
        assert closed.stat().st_mode & 0o777 == 0o700
        assert server.place.socket_directory.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()
        remove(server.place)


def test_a_directory_that_was_deleted_begins_anew(session_directory: Path) -> None:
    directory = session_directory / "deleted"
    directory.mkdir(mode=0o700)
    first = find_place(directory)
    first.data_directory.mkdir()
    try:
        assert find_place(directory) == first
        # Opened later, it does not lose what it has.
        directory.chmod(0o711)
        assert find_place(directory) == first
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        again = find_place(directory)
        assert not again.data_directory.exists()
        remove(again)
    finally:
        remove(first)


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="not run as root: only root's PostgreSQL may keep its data outside the data directory, which this looks at",
)
def test_whoever_deletes_root_s_data_directory_deletes_no_other_cluster(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = find_place(tmp_path)
    assert not place.home.is_relative_to(default_data_directory())
    remove(place)


def remove(place: PostgresPlace) -> None:
    """Remove a cluster and its socket, wherever they are."""
    for directory in (place.home, place.socket_directory):
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.any_broker
def test_a_busy_port_is_named(broker: str, session_directory: Path, reaper: Reaper) -> None:
    port = int(broker.partition(":")[2])
    with pytest.raises(PortBusyError, match=str(port)):
        start_broker(port, session_directory / "second-broker.log", reaper)


async def test_each_test_gets_a_migrated_database_of_its_own(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url.replace("postgresql+asyncpg://", "postgresql://"))
    assert await connection.fetchval("SELECT count(*) FROM chat_sessions") == 0
    await connection.close()
