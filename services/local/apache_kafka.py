"""Apache Kafka on this machine: one broker, or a cluster of three that outlives the loss of one."""

import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal
from uuid import uuid4

from services.local.kafka_artifacts import KafkaArtifacts
from services.local.kafka_properties import BrokerPlace, SecuredListener, as_text, broker_properties
from services.local.processes import (
    ChildProcess,
    PortBusyError,
    ensure_port_is_free,
    run_to_end,
    start_process,
)
from services.local.reaper import Reaper

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 2.0
_TRIES = 3

LASTING = ("-Xms256m", "-Xmx512m")
"""Options of Java for brokers that work for long."""
BRIEF = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For those that soon end: ready for half the processor time, slower under a load that lasts."""

# Below the ports that systems give to outgoing connections: a broker that is down for a while gets its own back.
_PORTS = range(20_000, 32_000)

# A Metadata request, version 1: size, key, version, correlation id, no client id, no topics.
_ASK_FOR_BROKERS = struct.pack(">ihhihi", 14, 3, 1, 0, -1, 0)


class ApacheKafka:
    """Running brokers on 127.0.0.1, numbered from 1. Their records are kept in their directories."""

    def __init__(
        self,
        places: Sequence[BrokerPlace],
        logs: Path,
        artifacts: KafkaArtifacts,
        reaper: Reaper,
        secured: SecuredListener | None,
        java_options: Sequence[str],
    ) -> None:
        self._places = {place.number: place for place in places}
        self._logs = logs
        self._artifacts = artifacts
        self._reaper = reaper
        self._secured = secured
        self._java_options = java_options
        self._children: dict[int, ChildProcess] = {}

    @property
    def bootstrap(self) -> str:
        """The address for clients; the same for as long as this object lives."""
        ports = [place.broker_port if self._secured is None else place.secured_port for place in self._places.values()]
        return ",".join(f"127.0.0.1:{port}" for port in ports)

    @property
    def client_settings(self) -> dict[str, str]:
        """What processes that talk to these brokers have in their environment."""
        return {
            "KAFKA_IDEMPOTENCE": "true",
            "KAFKA_REPLICATION_FACTOR": str(len(self._places)),
            "KAFKA_SESSION_TIMEOUT_MS": "6000",
        }

    @property
    def processes(self) -> list[ChildProcess]:
        """The brokers that were started and not stopped, by number; some may have ended by themselves.

        They are named `broker` where there is one, else `broker-NUMBER`.
        """
        return [self._children[number] for number in sorted(self._children)]

    def start(self) -> None:
        """Start every broker, and return when each serves metadata that names them all.

        A broker without data is formatted first. Raises ProcessEndedError if one ends, TimeoutError after 120 s.
        """
        self._format_new()
        for number in self._places:
            self._launch(number)
        self._wait_until_serving()

    def start_broker(self, number: int) -> None:
        """Start one broker that was stopped or killed, on its data and its ports; as `start()` otherwise.

        Its partitions may still be catching up when this returns.
        """
        self._launch(number)
        self._wait_until_serving()

    def start_again(self, name: str) -> None:
        """Start a broker that has ended by itself, on its data and its ports, without waiting for it.

        `name` is its process's. Raises PortBusyError.
        """
        self._launch(next(number for number in self._places if self._name(number) == name))

    def stop_broker(self, number: int) -> None:
        """Stop one broker in good order, so that others lead its partitions; killed if that takes over 10 s."""
        self._children.pop(number).stop(_STOP_SECONDS)

    def kill_broker(self, number: int) -> None:
        """Kill one broker without warning (SIGKILL), and return when it is gone."""
        self._children.pop(number).stop(_STOP_SECONDS, signal.SIGKILL)

    def stop(self) -> None:
        """Stop all brokers at once, and kill those that run after 10 s; nothing that was acknowledged is lost."""
        children = self.processes
        self._children.clear()
        give_up = time.monotonic() + _STOP_SECONDS
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.finish(max(0.0, give_up - time.monotonic()))

    def _format_new(self) -> None:
        """Give every broker without data a place for it, all of one cluster."""
        new = [place for place in self._places.values() if not (place.data / "meta.properties").exists()]
        if not new:
            return
        cluster_id = _kept_cluster_id(new[0].directory.parent)
        for place in new:
            # What an interrupted formatting left behind is no data.
            shutil.rmtree(place.data, ignore_errors=True)
            place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        formatting = [self._start_formatting(place, cluster_id) for place in new]
        for child in formatting:
            run_to_end(child, _START_SECONDS)

    def _start_formatting(self, place: BrokerPlace, cluster_id: str) -> ChildProcess:
        users = () if self._secured is None else self._secured.scram
        # In one word: an id may begin with a dash.
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", self._properties_file(place)]
        tool += [part for user in users for part in ("--add-scram", user)]
        return self._start_java(place.number, f"format-{place.number}", BRIEF, tool)

    def _launch(self, number: int) -> None:
        place = self._places[number]
        for port in (place.broker_port, place.controller_port, place.secured_port):
            ensure_port_is_free(port, f"Apache Kafka's broker {number}")
        broker = ["kafka.Kafka", self._properties_file(place)]
        self._children[number] = self._start_java(number, self._name(number), self._java_options, broker)

    def _name(self, number: int) -> str:
        return "broker" if len(self._places) == 1 else f"broker-{number}"

    def _start_java(self, number: int, name: str, options: Sequence[str], program: Sequence[str]) -> ChildProcess:
        log_settings = f"-Dlog4j2.configurationFile={self._artifacts.log_settings}"
        command = [self._artifacts.java, *options, "-XX:-UsePerfData", log_settings]
        command += ["-cp", f"{self._artifacts.jars}/*", *program]
        return start_process(
            name,
            command,
            # Of the caller's own environment, options for Java would be taken.
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            log_path=self._logs / f"{self._name(number)}.log",
            reaper=self._reaper,
        )

    def _properties_file(self, place: BrokerPlace) -> str:
        path = place.directory / "server.properties"
        properties = broker_properties(place, list(self._places.values()), self._secured)
        path.touch(mode=0o600)
        path.write_text(as_text(properties))
        return str(path)

    def _wait_until_serving(self) -> None:
        """Wait until every broker that runs knows all that run: then they have registered, and a controller leads."""
        give_up = time.monotonic() + _START_SECONDS
        running = set(self._children)
        for number, child in self._children.items():
            while not running <= _brokers_known_at(self._places[number].broker_port):
                for other in self._children.values():
                    other.ensure_running()
                if time.monotonic() > give_up:
                    raise TimeoutError(
                        f"{child.name} did not serve within {_START_SECONDS:.0f} s; its log is {child.log_path}."
                    )
                time.sleep(0.05)


def start_apache_kafka(
    directory: Path,
    logs: Path,
    reaper: Reaper,
    artifacts: KafkaArtifacts,
    *,
    brokers: Literal[1, 3] = 1,
    secured: SecuredListener | None = None,
    java_options: Sequence[str] = LASTING,
) -> ApacheKafka:
    """Start one broker (replication 1) or three (replication 3, at least 2 in sync) on free ports, and wait for them.

    Their data stays in `directory`, one broker's and three brokers' apart, for the next start; logs are
    `logs`/NAME.log of each process. A start that fails leaves none of them running. Raises ProcessEndedError,
    PortBusyError or TimeoutError.
    """
    for _ in range(_TRIES - 1):
        # Between the choice of ports and a broker's start lies a second, in which another may take one.
        with contextlib.suppress(PortBusyError):
            return _started(directory, logs, reaper, artifacts, brokers, secured, java_options)
    return _started(directory, logs, reaper, artifacts, brokers, secured, java_options)


def _started(
    directory: Path,
    logs: Path,
    reaper: Reaper,
    artifacts: KafkaArtifacts,
    brokers: int,
    secured: SecuredListener | None,
    java_options: Sequence[str],
) -> ApacheKafka:
    ports = iter(_steady_ports(3 * brokers))
    home = directory / ("kafka" if brokers == 1 else "kafka-cluster")
    places = [
        BrokerPlace(number, next(ports), next(ports), next(ports), home / f"broker-{number}")
        for number in range(1, brokers + 1)
    ]
    kafka = ApacheKafka(places, logs, artifacts, reaper, secured, java_options)
    try:
        kafka.start()
    except BaseException:
        kafka.stop()
        raise
    return kafka


def _kept_cluster_id(home: Path) -> str:
    """The id of the cluster whose brokers are in `home`: the same at every start."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "cluster-id"
    if not path.exists():
        path.write_text(base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("="))
    return path.read_text()


def _steady_ports(count: int) -> list[int]:
    """Free ports of 127.0.0.1, all different."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(_PORTS)
        try:
            ensure_port_is_free(port, "Apache Kafka")
        except PortBusyError:
            continue
        if port not in found:
            found.append(port)
    return found


def _brokers_known_at(port: int) -> set[int]:
    """The numbers of the brokers that the one at `port` tells clients of; none while it does not answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS) as connection:
            connection.sendall(_ASK_FOR_BROKERS)
            with connection.makefile("rb") as answer:
                _size, _correlation, count = struct.unpack(">iii", answer.read(12))
                return {_broker_number(answer) for _ in range(count)}
    except (OSError, struct.error):
        return set()


def _broker_number(answer: BinaryIO) -> int:
    """Read one broker of a Metadata answer: number, host, port, rack."""
    number, host_length = struct.unpack(">ih", answer.read(6))
    answer.read(host_length)
    _port, rack_length = struct.unpack(">ih", answer.read(6))
    answer.read(max(0, rack_length))
    return int(number)
