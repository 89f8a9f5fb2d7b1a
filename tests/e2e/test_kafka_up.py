"""`chat-sessions up --broker kafka`: unlike the embedded broker, Apache Kafka keeps what it has."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.local_stack import Up, left_over, start_up, until
from tests.engine import on_apache_kafka

pytestmark = [
    pytest.mark.skipif(not on_apache_kafka(), reason="It runs with TEST_ENGINE=kafka."),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def up(session_directory: Path) -> Iterator[Up]:
    """An `up` of this module's own; its last test ends it."""
    running = start_up(session_directory / "kafka-up")
    yield running
    if running.popen.poll() is None:
        assert running.stop() == 0


def send_to_a_dispatcher_that_stands_still(stack: dict[str, Any]) -> str:
    """Kafka is the only one who has the message when this returns."""
    os.kill(stack["processes"]["dispatcher"], signal.SIGSTOP)
    answer = httpx.post(
        f"{stack['gatewayUrl']}/api/conversations/{uuid4()}/messages",
        json={"personaId": "echo", "message": "are you there?"},
        headers={"authorization": f"Bearer {stack['userToken']}"},
    )
    answer.raise_for_status()
    return str(answer.json()["sessionId"])


def until_completed(stack: dict[str, Any], session_id: str) -> None:
    headers = {"authorization": f"Bearer {stack['userToken']}"}
    url = f"{stack['gatewayUrl']}/api/chat-sessions/{session_id}"
    until(lambda: httpx.get(url, headers=headers).json().get("status") == "COMPLETED", 60, "the reply")
    calls = httpx.get(f"{stack['n8nUrl']}/calls", params={"sessionId": session_id}).json()
    assert calls["calls"] == 1


def test_a_killed_broker_goes_on_where_it_was(up: Up) -> None:
    before = up.stack()["processes"]
    session_id = send_to_a_dispatcher_that_stands_still(up.stack())
    os.kill(before["broker"], signal.SIGKILL)
    until(lambda: up.stack()["processes"].get("broker", before["broker"]) != before["broker"], 30, "the broker again")
    os.kill(before["dispatcher"], signal.SIGCONT)
    until_completed(up.stack(), session_id)
    after = up.stack()["processes"]
    assert {**before, "broker": None} == {**after, "broker": None}


def test_the_next_up_goes_on_where_the_killed_one_was(up: Up) -> None:
    session_id = send_to_a_dispatcher_that_stands_still(up.stack())
    processes = up.descendants()
    up.popen.kill()
    up.popen.wait(10)
    until(lambda: not left_over(processes), 20, f"all of {processes} gone")
    again = start_up(up.data_directory)
    try:
        until_completed(again.stack(), session_id)
    finally:
        assert again.stop() == 0
