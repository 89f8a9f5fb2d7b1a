"""The settings of local Apache Kafka brokers, as text. Pure: no files, no ports are touched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SecuredListener:
    """How clients must come in, where plain connections are not to be allowed.

    The brokers' own listener, which only they are told of, stays plain.
    """

    protocol: str
    """SSL, SASL_SSL or SASL_PLAINTEXT."""
    properties: Mapping[str, str]
    """Broker properties that the protocol needs: key and trust stores, SASL mechanisms."""
    scram: Sequence[str] = field(default=(), repr=False)
    """Users to begin with, such as `SCRAM-SHA-512=[name=N,password=P]`; a broker takes them when it is first made."""


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """Where one broker is: its number (from 1), its ports on 127.0.0.1 and its directory."""

    number: int
    broker_port: int
    controller_port: int
    secured_port: int
    directory: Path

    @property
    def data(self) -> Path:
        """The directory of its records."""
        return self.directory / "data"


def broker_properties(
    place: BrokerPlace, cluster: Sequence[BrokerPlace], secured: SecuredListener | None
) -> dict[str, str]:
    """The properties of one broker of `cluster`, which is also one of its controllers."""
    replicas = str(len(cluster))
    in_sync = "2" if len(cluster) > 1 else "1"
    return {
        "process.roles": "broker,controller",
        "node.id": str(place.number),
        # A quorum named here, unlike one kept in the data, may move to other ports at the next start.
        "controller.quorum.voters": ",".join(f"{one.number}@127.0.0.1:{one.controller_port}" for one in cluster),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "BROKERS",
        "log.dirs": str(place.data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "2",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "2",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        # Tests have members that are missed sooner than the 6 s that brokers insist on.
        "group.min.session.timeout.ms": "1000",
        # How long a killed leader stalls its partitions; alone, how long it takes to come back after a kill.
        "broker.session.timeout.ms": "6000" if len(cluster) > 1 else "3000",
        "broker.heartbeat.interval.ms": "500",
        # 128 MB of heap by default, for topics far larger than ours.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        **_listeners(place, secured),
    }


def _listeners(place: BrokerPlace, secured: SecuredListener | None) -> dict[str, str]:
    listeners = {"BROKERS": place.broker_port, "CONTROLLER": place.controller_port}
    protocols = {"BROKERS": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
    if secured is not None:
        listeners["CLIENTS"] = place.secured_port
        protocols["CLIENTS"] = secured.protocol
    return {
        "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        **(secured.properties if secured is not None else {}),
    }


def as_text(properties: Mapping[str, str]) -> str:
    """The properties as a file; a backslash would begin an escape."""
    return "".join(f"{name}={value}\n".replace("\\", "\\\\") for name, value in properties.items())
