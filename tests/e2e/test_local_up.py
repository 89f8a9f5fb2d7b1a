"""`chat-sessions up`: ready in time, a killed service comes back, nothing outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from services.local.processes import free_port
from tests.e2e.local_stack import Up, left_over, start_up, until

SERVICES = {"gateway", "dispatcher", "tracker", "sweeper", "n8n", "broker", "postgres"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def say(up: Up, text: str, persona: str = "echo", wait: int = 30) -> dict[str, object]:
    stack = up.stack()
    answer = httpx.post(
        f"{stack['gatewayUrl']}/api/conversations/{uuid4()}/messages",
        params={"wait": wait},
        json={"personaId": persona, "message": text},
        headers={"authorization": f"Bearer {stack['userToken']}"},
        timeout=wait + 10,
    )
    answer.raise_for_status()
    session: dict[str, object] = answer.json()
    return session


def test_a_message_gets_its_reply_and_the_commands_find_the_stack(running_up: Up) -> None:
    assert say(running_up, "good day")["reply"] == "You said: good day"
    directory = str(running_up.data_directory)
    sent = run("send", "hello", "--data-dir", directory)
    assert (sent.returncode, sent.stdout.splitlines()[-1]) == (0, "You said: hello"), sent.stderr
    failed = run("send", "hello", "--persona", "broken", "--data-dir", directory)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1), failed.stderr
    well = run("doctor", "--data-dir", directory)
    assert well.returncode == 0, well.stdout + well.stderr
    session_id = failed.stdout.split()[1]
    explained = run("doctor", session_id, "--data-dir", directory)
    assert f"Session {session_id} is FAILED." in explained.stdout, explained.stderr
    assert "A node of the workflow failed" in explained.stdout
    # A conversation is its first user's.
    assert run("send", "hello", "--user", "bob", "--data-dir", directory).returncode == 0
    for session, told in (("xyz", "xyz is not a session id (a UUID)."), (str(UUID(int=0)), "There is no session ")):
        mistaken = run("doctor", session, "--data-dir", directory)
        assert (mistaken.returncode, mistaken.stderr.count("\n")) == (1, 1)
        assert mistaken.stderr.startswith(f"Error: {told}")


def test_doctor_tells_wrong_settings_before_a_process_does(running_up: Up) -> None:
    here = run("doctor", "--data-dir", str(running_up.data_directory), LOG_LEVEL="loud")
    assert (here.returncode, here.stdout.split("\n")[0].partition(" is wrong")[0]) == (
        0,
        "! Settings of this terminal: LOG_LEVEL",
    )
    stack = running_up.stack()
    named = {
        **stack["kafkaSettings"],
        "KAFKA_BOOTSTRAP_SERVERS": stack["kafkaBootstrap"],
        "DATABASE_URL": stack["databaseUrl"],
        "CHAT_SESSIONS_URL": stack["gatewayUrl"],
        "JWT_SECRET": (running_up.data_directory / "jwt-secret").read_text(),
    }
    well = run("doctor", **named)
    assert (well.returncode, [line[0] for line in well.stdout.splitlines()]) == (0, ["✓"] * 4), well.stdout
    wrong = run("doctor", **named, LOG_LEVEL="loud")
    assert (wrong.returncode, [line[0] for line in wrong.stdout.splitlines()]) == (1, ["✗", "✓", "✓", "✓"])
    assert wrong.stdout.startswith("✗ Settings of gateway, dispatcher, tracker and sweeper: LOG_LEVEL is wrong: ")


def test_personas_from_the_command_line(running_up: Up) -> None:
    directory = str(running_up.data_directory)
    url = f"{running_up.stack()['n8nUrl']}/webhook/echo"
    for arguments in (
        ("set", "from-cli", "--webhook-url", url, "--max-attempts", "2"),
        ("get", "from-cli"),
        ("list",),
    ):
        done = run("persona", *arguments, "--data-dir", directory)
        assert done.returncode == 0, done.stderr
        assert url in done.stdout
    assert run("persona", "delete", "from-cli", "--data-dir", directory).returncode == 0
    gone = run("persona", "get", "from-cli", "--data-dir", directory)
    assert gone.returncode == 1
    assert gone.stderr.startswith("Error: The gateway answered 404: ")


def test_stack_json_names_every_process_and_is_private(running_up: Up) -> None:
    stack = running_up.stack()
    assert set(stack["processes"]) == SERVICES
    assert left_over(list(stack["processes"].values())) == list(stack["processes"].values())
    assert (running_up.data_directory / "stack.json").stat().st_mode & 0o777 == 0o600
    for url in stack["opsUrls"].values():
        assert httpx.get(f"{url}/health/ready").status_code == 200


def test_a_second_up_and_a_busy_port_are_one_clear_line(running_up: Up, session_directory: Path) -> None:
    second = run("up", "--data-dir", str(running_up.data_directory), "--port", str(free_port()))
    assert second.returncode == 1
    assert second.stdout.count("\n") == 1
    assert f"already runs on {running_up.data_directory} (pid {running_up.popen.pid})" in second.stdout
    port = running_up.stack()["gatewayUrl"].rpartition(":")[2]
    busy = run("up", "--data-dir", str(session_directory / "busy"), "--port", port)
    assert (busy.returncode, busy.stdout.count("\n")) == (1, 1)
    assert f"Port {port}, wanted for the gateway (--port)" in busy.stdout


@pytest.mark.parametrize("name", ["tracker", "gateway"])
def test_a_killed_service_comes_back(running_up: Up, name: str) -> None:
    killed = running_up.stack()["processes"][name]
    os.kill(killed, signal.SIGKILL)

    def is_back() -> bool:
        stack = running_up.stack()
        if stack["processes"].get(name, killed) == killed:
            return False
        try:
            return httpx.get(f"{stack['opsUrls'][name]}/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    until(is_back, 30, f"{name} is back")
    assert say(running_up, "still there?")["status"] == "COMPLETED"


@pytest.mark.timeout(180)
def test_nothing_outlives_it_and_its_data_stays(session_directory: Path) -> None:
    directory = session_directory / "own"
    began = time.monotonic()
    first = start_up(directory)
    took = time.monotonic() - began
    completed = say(first, "remember me")
    processes = first.descendants()
    try:
        assert took < 15
        assert len(processes) > len(SERVICES)
    finally:
        first.popen.kill()
        first.popen.wait(10)
    until(lambda: not left_over(processes), 15, f"all of {processes} gone")
    assert not (directory / "stack.json").exists()

    second = start_up(directory)
    processes = second.descendants()
    try:
        stack = second.stack()
        kept = httpx.get(
            f"{stack['gatewayUrl']}/api/chat-sessions/{completed['sessionId']}",
            headers={"authorization": f"Bearer {stack['userToken']}"},
        ).json()
        assert kept["status"] == "COMPLETED"
    finally:
        assert second.stop() == 0
    assert left_over(processes) == []
    assert not (directory / "stack.json").exists()


def test_a_killed_broker_is_replaced_and_what_it_held_is_sent_again(running_up: Up) -> None:
    stack = running_up.stack()
    killed = stack["processes"]["broker"]
    # A dispatcher that stands still: the broker is the only one who has the message when it dies.
    os.kill(stack["processes"]["dispatcher"], signal.SIGSTOP)
    waiting = say(running_up, "are you there?", wait=0)
    headers = {"authorization": f"Bearer {stack['userToken']}"}
    url = f"{stack['gatewayUrl']}/api/chat-sessions/{waiting['sessionId']}"
    # Tracked, so that PostgreSQL has what the broker loses.
    until(lambda: httpx.get(url, headers=headers).status_code == 200, 20, "the session is tracked")
    os.kill(killed, signal.SIGKILL)
    until(lambda: running_up.stack()["processes"].get("broker", killed) != killed, 60, "a new broker")
    until(lambda: httpx.get(url, headers=headers).json()["status"] == "COMPLETED", 30, "the reply")
    calls = httpx.get(f"{stack['n8nUrl']}/calls", params={"sessionId": str(waiting["sessionId"])}).json()
    assert calls["calls"] == 1


def test_a_call_that_ends_while_it_stops_is_not_made_again(session_directory: Path) -> None:
    directory = session_directory / "stopping"
    first = start_up(directory)
    sent = httpx.post(
        f"{first.stack()['gatewayUrl']}/api/conversations/stopping/messages",
        json={"personaId": "slow", "message": "Wait for me"},
        headers={"authorization": f"Bearer {first.stack()['userToken']}"},
        trust_env=False,
    ).json()
    calls = f"{first.stack()['n8nUrl']}/calls?sessionId={sent['sessionId']}"
    until(lambda: httpx.get(calls, trust_env=False).status_code == 200, 10, "the call runs")
    assert first.stop() == 0
    second = start_up(directory)
    try:
        stack = second.stack()
        session = httpx.get(
            f"{stack['gatewayUrl']}/api/chat-sessions/{sent['sessionId']}",
            headers={"authorization": f"Bearer {stack['userToken']}"},
            trust_env=False,
        ).json()
        assert (session["status"], session["attempts"]) == ("COMPLETED", 1)
    finally:
        assert second.stop() == 0
