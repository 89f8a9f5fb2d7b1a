"""One `up` a data directory, and secrets that only their owner reads."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.local.data_directory import AlreadyRunningError, NoStackError, open_data_directory, read_stack
from services.local.processes import free_port
from tests.command_line import run_command

HOLDER = """
import sys
from pathlib import Path
from services.local.data_directory import open_data_directory
open_data_directory(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_one_is_refused_by_name_until_the_first_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(AlreadyRunningError, match=str(holder.pid)):
            open_data_directory(tmp_path)
        holder.kill()
    os.close(open_data_directory(tmp_path).lock)


def test_secrets_stay_and_stack_json_comes_and_goes(tmp_path: Path) -> None:
    directory = open_data_directory(tmp_path / "data")
    try:
        secrets = directory.jwt_secret(), directory.persona_secrets_key()
        assert (directory.jwt_secret(), directory.persona_secrets_key()) == secrets
        with pytest.raises(NoStackError, match="chat-sessions up"):
            read_stack(directory.path)
        directory.write_stack(
            {
                "gatewayUrl": "http://g",
                "kafkaBootstrap": "k:1",
                "databaseUrl": "postgresql://d",
                "opsUrls": {"tracker": "http://t"},
                "kafkaSettings": {"KAFKA_IDEMPOTENCE": "false"},
                "processes": {"tracker": 7},
            }
        )
        running = read_stack(directory.path)
        assert (running.gateway_url, running.ops_urls) == ("http://g", {"tracker": "http://t"})
        assert running.pids == {"tracker": 7}
        assert running.settings["JWT_SECRET"] == secrets[0]
        assert running.settings["KAFKA_IDEMPOTENCE"] == "false"
        private = [path for path in directory.path.iterdir() if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
        directory.remove_stack()
        with pytest.raises(NoStackError):
            read_stack(directory.path)
    finally:
        os.close(directory.lock)


def test_the_logs_of_the_run_before_are_kept(tmp_path: Path) -> None:
    first = open_data_directory(tmp_path)
    (first.logs / "tracker.log").write_text("old")
    os.close(first.lock)
    second = open_data_directory(tmp_path)
    os.close(second.lock)
    assert not (second.logs / "tracker.log").exists()
    assert (second.logs / "tracker.log.1").read_text() == "old"


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are not run in the main thread, which alone may handle signals."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


@pytest.mark.usefixtures("no_signals")
@pytest.mark.parametrize("impossible", ["file", "file/below"])
def test_a_path_that_cannot_be_one_is_named_in_one_line(tmp_path: Path, impossible: str) -> None:
    (tmp_path / "file").touch()
    refused = run_command("up", "--data-dir", str(tmp_path / impossible), "--port", str(free_port()), environment={})
    assert (refused.returncode, refused.stdout.count("\n")) == (1, 1)
    assert refused.stdout.startswith(f"{tmp_path / impossible} cannot be the data directory (")


@pytest.mark.usefixtures("no_signals")
def test_a_busy_port_leaves_no_directory_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        refused = run_command("up", "--data-dir", str(tmp_path / "new"), "--port", port, environment={})
    assert (refused.returncode, refused.stdout.count("\n")) == (1, 1)
    assert f"Port {port}" in refused.stdout
    assert not (tmp_path / "new").exists()
