"""`chat-sessions up`: ready in time, a killed service comes back, nothing outlives it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from services.local.processes import free_port
from tests.command_line import Done, run_command
from tests.e2e.local_stack import Up, left_over, start_up, until
from tests.engine import on_apache_kafka
from tests.freezing import freeze, thaw

SERVICES = {"gateway", "dispatcher", "tracker", "sweeper", "n8n", "broker", "postgres"}
# Never over TLS, whose certificates take long to read.
HTTP = httpx.Client(trust_env=False, verify=False)


def run(*arguments: str, **environment: str) -> Done:
    return run_command(*arguments, environment={**os.environ, **environment})


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As `run`, in a process of its own, as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def say(up: Up, text: str, persona: str = "echo", wait: int = 30) -> dict[str, object]:
    stack = up.stack()
    answer = HTTP.post(
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
    sent = run_process("send", "hello", "--data-dir", directory)
    assert (sent.returncode, sent.stdout.splitlines()[-1]) == (0, "You said: hello"), sent.stderr
    failed = run("send", "hello", "--persona", "broken", "--data-dir", directory)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1), failed.stderr
    well = run_process("doctor", "--data-dir", directory)
    assert well.returncode == 0, well.stdout + well.stderr
    session_id = failed.stdout.split()[1]
    explained = run("doctor", session_id, "--data-dir", directory)
    told = (
        f"Session {session_id} failed at attempt 1 of persona broken, workflow-error: a node of the workflow failed; "
    )
    assert explained.stdout.startswith(told), explained.stdout + explained.stderr
    assert {"MessageSent", "WebhookFailed"} <= set(explained.stdout.partition("In Kafka:")[2].split())
    waiting = run("send", "?", "--persona", "hang", "--conversation", "h", "--wait", "1", "--data-dir", directory)
    hanging = waiting.stdout.split()[1]
    assert waiting.stderr.endswith(f"See `chat-sessions doctor {hanging} --data-dir {directory}`.\n")
    until(lambda: calls_of(running_up, hanging) == 1, 60, "the call runs")
    running = json.loads(run("doctor", str(hanging), "--json", "--data-dir", directory).stdout)
    assert (running["verdict"], running["status"], len(running["records"])) == ("running", "ACTIVE", 1)
    # A conversation is its first user's.
    assert run("send", "hello", "--user", "bob", "--data-dir", directory).returncode == 0
    for session, told in (("xyz", "xyz is not a session id (a UUID)."), (str(UUID(int=0)), "There is no session ")):
        mistaken = run("doctor", session, "--data-dir", directory)
        assert (mistaken.returncode, mistaken.stderr.count("\n")) == (1, 1)
        assert mistaken.stderr.startswith(f"Error: {told}")


def test_a_token_that_was_given_says_whose_conversation_it_is(any_up: Up) -> None:
    directory, gateway = str(any_up.data_directory), any_up.stack()["gatewayUrl"]
    for user in ("dora", "emil"):  # each with an own one
        token = run("token", "--user", user, "--admin", "--data-dir", directory).stdout.strip()
        given = {"CHAT_SESSIONS_URL": gateway, "CHAT_SESSIONS_TOKEN": token}
        sent = run("send", "hello", **given)
        assert (sent.returncode, sent.stdout.splitlines()[-1]) == (0, "You said: hello"), sent.stderr
    foreign = run("send", "hello", "--conversation", "command-line-dora", **given)
    assert foreign.returncode == 1
    assert foreign.stderr == (
        "Error: The gateway answered 404: you have no conversation command-line-dora, "
        "it belongs to another user: give --conversation.\n"
    )


def test_doctor_tells_wrong_settings_before_a_process_does(any_up: Up) -> None:
    here = run("doctor", "--data-dir", str(any_up.data_directory), LOG_LEVEL="loud")
    assert here.returncode == 0, here.stdout
    (noticed,) = [line for line in here.stdout.splitlines() if " settings: " in line]
    assert noticed.startswith("! settings: Of this terminal: LOG_LEVEL is wrong: ")
    stack = any_up.stack()
    named = {
        **stack["kafkaSettings"],
        "KAFKA_BOOTSTRAP_SERVERS": stack["kafkaBootstrap"],
        "DATABASE_URL": stack["databaseUrl"],
        "CHAT_SESSIONS_URL": stack["gatewayUrl"],
        "JWT_SECRET": (any_up.data_directory / "jwt-secret").read_text(),
    }
    process = f"tracker={stack['opsUrls']['tracker']}"
    told = json.loads(run("doctor", "--json", "--process", process, **named).stdout)
    levels = {finding["check"]: finding["level"] for finding in told["findings"]}
    assert told["well"] is True, told
    assert {levels[check] for check in ("settings", "processes.gateway", "processes.tracker")} == {"well"}
    wrong = run("doctor", **named, LOG_LEVEL="loud")
    (line,) = [line for line in wrong.stdout.splitlines() if line.startswith("✗")]
    assert wrong.returncode == 1
    assert line.startswith("✗ settings: Of gateway, dispatcher, tracker and sweeper: LOG_LEVEL is wrong: ")


def test_personas_from_the_command_line(any_up: Up) -> None:
    directory = str(any_up.data_directory)
    url = f"{any_up.stack()['n8nUrl']}/webhook/echo"
    for arguments in (
        ("set", "from-cli", "--webhook-url", url, "--max-attempts", "2"),
        ("get", "from-cli"),
        ("list",),
    ):
        done = run("persona", *arguments, "--data-dir", directory)
        assert done.returncode == 0, done.stderr
        assert url in done.stdout
    for action, shown in (("pause", True), ("resume", False)):
        done = run("persona", action, "from-cli", "--data-dir", directory)
        assert done.returncode == 0, done.stderr
        (line,) = [
            line
            for line in run("persona", "list", "--data-dir", directory).stdout.splitlines()
            if line.startswith("from-cli ")
        ]
        assert ("  paused, " in line) == shown
    deleted = run("persona", "delete", "from-cli", "--data-dir", directory)
    assert (deleted.returncode, deleted.stdout) == (0, "from-cli is deleted; its sessions stay.\n")
    again = run("persona", "delete", "from-cli", "--data-dir", directory)
    assert (again.returncode, again.stderr) == (1, "Error: There is no persona 'from-cli'.\n")
    gone = run("persona", "get", "from-cli", "--data-dir", directory)
    assert gone.returncode == 1
    assert gone.stderr == "Error: There is no persona 'from-cli': `chat-sessions persona set` makes it.\n"


def test_stack_json_names_every_process_and_is_private(any_up: Up) -> None:
    stack = any_up.stack()
    assert set(stack["processes"]) == SERVICES
    assert left_over(list(stack["processes"].values())) == list(stack["processes"].values())
    assert (any_up.data_directory / "stack.json").stat().st_mode & 0o777 == 0o600
    for url in stack["opsUrls"].values():
        assert HTTP.get(f"{url}/health/ready").status_code == 200


def test_a_second_up_and_a_busy_port_are_one_clear_line(any_up: Up, session_directory: Path) -> None:
    second = run_process("up", "--data-dir", str(any_up.data_directory), "--port", str(free_port()))
    assert second.returncode == 1
    assert second.stdout.count("\n") == 1
    assert f"already runs on {any_up.data_directory} (pid {any_up.popen.pid})" in second.stdout
    port = any_up.stack()["gatewayUrl"].rpartition(":")[2]
    busy = run_process("up", "--data-dir", str(session_directory / "busy"), "--port", port)
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
            return HTTP.get(f"{stack['opsUrls'][name]}/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    until(is_back, 30, f"{name} is back")
    assert say(running_up, "still there?")["status"] == "COMPLETED"


def send_to_a_dispatcher_that_stands_still(up: Up) -> str:
    """Send a message that is tracked and not called; Kafka has it."""
    freeze(up.stack()["processes"]["dispatcher"])
    waiting = str(say(up, "are you there?", wait=0)["sessionId"])
    until(lambda: session_of(up, waiting) is not None, 60, "the session is tracked")
    return waiting


def session_of(up: Up, session_id: object) -> dict[str, object] | None:
    """The session as its user sees it now; None while it is not found."""
    stack = up.stack()
    answer = HTTP.get(
        f"{stack['gatewayUrl']}/api/chat-sessions/{session_id}",
        headers={"authorization": f"Bearer {stack['userToken']}"},
    )
    return answer.json() if answer.status_code == 200 else None


def until_completed(up: Up, session_id: object) -> dict[str, object]:
    def session() -> dict[str, object]:
        return session_of(up, session_id) or {}

    until(lambda: session().get("status") == "COMPLETED", 60, "the reply")
    return session()


def calls_of(up: Up, session_id: object) -> int:
    """How often the stub's webhooks were called for a session since the stub was started."""
    answer = HTTP.get(f"{up.stack()['n8nUrl']}/calls", params={"sessionId": str(session_id)})
    return answer.json()["calls"] if answer.status_code == 200 else 0


def test_a_killed_broker_comes_back_and_what_it_held_is_called_once(running_up: Up) -> None:
    before = running_up.stack()["processes"]
    waiting = send_to_a_dispatcher_that_stands_still(running_up)
    os.kill(before["broker"], signal.SIGKILL)
    until(lambda: running_up.stack()["processes"].get("broker", before["broker"]) != before["broker"], 60, "a broker")
    if on_apache_kafka():
        # It has kept what it held, so the services go on as they are.
        thaw(before["dispatcher"])
    until_completed(running_up, waiting)
    assert calls_of(running_up, waiting) == 1
    if on_apache_kafka():
        assert {**running_up.stack()["processes"], "broker": None} == {**before, "broker": None}


@pytest.fixture
def start_again(running_up: Up) -> Iterator[Callable[[], Up]]:
    """Starts `up` on the same data directory, again and again; the last one does not outlive the test."""
    started: list[Up] = []

    def start() -> Up:
        started.append(start_up(running_up.data_directory))
        return started[-1]

    yield start
    for up in started:
        if up.popen.poll() is None:
            up.stop()


# The last of the tests in this directory, for it ends what they share.
@pytest.mark.timeout(240)
def test_nothing_outlives_it_and_the_next_goes_on_where_it_was_until_its_data_is_deleted(
    running_up: Up, start_again: Callable[[], Up]
) -> None:
    first = running_up
    completed = say(first, "remember me")
    own = (
        "uneven",
        "--webhook-url",
        f"{first.stack()['n8nUrl']}/webhook/echo",
        "--data-dir",
        str(first.data_directory),
    )
    assert run("persona", "set", *own).returncode == 0
    waiting = send_to_a_dispatcher_that_stands_still(first)
    processes = first.descendants()
    assert len(processes) > len(SERVICES)
    first.popen.kill()
    first.popen.wait(10)
    until(lambda: not left_over(processes), 20, f"all of {processes} gone")
    assert not (first.data_directory / "stack.json").exists()

    second = start_again()
    processes = second.descendants()
    kept = session_of(second, completed["sessionId"])
    assert kept is not None
    assert kept["status"] == "COMPLETED"
    assert "Left as they were set, with webhooks elsewhere: uneven." in second.output.read_text()
    until_completed(second, waiting)
    assert calls_of(second, waiting) == 1
    slow = say(second, "Wait for me", persona="slow", wait=0)["sessionId"]
    until(lambda: calls_of(second, slow) == 1, 60, "the call runs")
    assert second.stop() == 0
    assert left_over(processes) == []
    assert not (first.data_directory / "stack.json").exists()

    third = start_again()
    assert until_completed(third, slow)["attempts"] == 1
    assert calls_of(third, slow) == 0
    processes = third.descendants()
    shutil.rmtree(third.data_directory, ignore_errors=True)
    assert third.popen.wait(60) == 1
    assert left_over(processes) == []
    told = third.output.read_text()
    assert "Traceback" not in told
    assert "so everything stops: " in told
