"""The broker and the database that `up` starts itself, as one: started, replaced after a death, stopped."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from services.local.apache_kafka import ApacheKafka, start_apache_kafka
from services.local.broker import EMBEDDED_BROKER_SETTINGS, EmbeddedBroker, start_broker
from services.local.data_directory import DataDirectory
from services.local.kafka_artifacts import KafkaArtifacts
from services.local.postgres import EmbeddedPostgres, start_postgres
from services.local.processes import ChildProcess, free_port
from services.local.reaper import Reaper
from services.local.supervisor import Deaths


class Engines:
    """At most one broker, or cluster of brokers, and one embedded PostgreSQL."""

    def __init__(self, directory: DataDirectory, reaper: Reaper, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._reaper = reaper
        self._broker: EmbeddedBroker | None = None
        self._kafka: ApacheKafka | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._deaths = Deaths(say)

    def start_postgres(self) -> str:
        """Start PostgreSQL; gives the address of its database, the same at every start."""
        self._postgres = start_postgres(self._directory.path, self._directory.logs / "postgres.log", self._reaper)
        return self._postgres.url()

    def start_embedded_broker(self) -> str:
        """Start the embedded broker, empty; gives its address, the same at every start."""
        port = free_port() if self._broker is None else int(self._broker.bootstrap.rpartition(":")[2])
        self._broker = start_broker(port, self._directory.logs / "broker.log", self._reaper)
        return self._broker.bootstrap

    def start_kafka(self, artifacts: KafkaArtifacts, brokers: Literal[1, 3]) -> str:
        """Start Apache Kafka with what it kept of the run before; gives its address."""
        self._kafka = start_apache_kafka(
            self._directory.path, self._directory.logs, self._reaper, artifacts, brokers=brokers
        )
        return self._kafka.bootstrap

    def start_again(self, name: str) -> None:
        """Start an engine that has died; its address stays. Does not wait for Apache Kafka."""
        if name == "postgres":
            self.start_postgres()
        elif self._kafka is not None:
            self._kafka.start_again(name)
        else:
            self.start_embedded_broker()

    @property
    def database_directory(self) -> Path | None:
        """Where PostgreSQL's data lies; None if it is not one of ours."""
        return None if self._postgres is None else self._postgres.place.home

    @property
    def database_is_new(self) -> bool:
        """Whether there can be no session of an earlier run: the database was made at this start."""
        return self._postgres is not None and self._postgres.is_new

    @property
    def broker_settings(self) -> Mapping[str, str]:
        """What the broker wants in the environment of its clients; nothing if it is not one of ours."""
        if self._kafka is not None:
            return self._kafka.client_settings
        return {} if self._broker is None else EMBEDDED_BROKER_SETTINGS

    def loses_records(self, name: str) -> bool:
        """Whether what this engine held is gone when it ends."""
        return self._broker is not None and name == self._broker.process.name

    @property
    def keeps_nothing(self) -> bool:
        """Whether the broker started here forgets everything when it stops."""
        return self._broker is not None

    def pids(self) -> dict[str, int]:
        """The engines' processes."""
        return {child.name: child.pid for child in self._children()}

    def dead(self) -> list[str]:
        """The names of the engines that should run and do not: `broker` or `broker-NUMBER`, `postgres`."""
        return [child.name for child in self._children() if child.exit_code() is not None]

    def ensure_running(self) -> None:
        """Raise ProcessEndedError if an engine has ended."""
        for child in self._children():
            child.ensure_running()

    def note_death(self, name: str) -> None:
        """Tell of an engine's death and wait before its next start; KeepsDyingError if it died too often."""
        child = next(child for child in self._children() if child.name == name)
        time.sleep(self._deaths.note(child, child.finish(0), time.monotonic()))

    def stop(self) -> None:
        """Stop the brokers, then PostgreSQL."""
        if self._broker is not None:
            self._broker.process.stop(2)
        if self._kafka is not None:
            self._kafka.stop()
        if self._postgres is not None:
            self._postgres.stop()

    def _children(self) -> list[ChildProcess]:
        own = [engine.process for engine in (self._broker, self._postgres) if engine is not None]
        return own if self._kafka is None else [*self._kafka.processes, *own]
