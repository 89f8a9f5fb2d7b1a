"""What the command line says of itself, and of settings that no process could start with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.commands import personas
from services.commands.checkup.settings import PROCESSES, settings_problems
from tests.command_line import DEFAULT_DIRECTORY, run_command

ROOT = Path(__file__).parents[2]


def help_of(*command: str, columns: int = 200) -> str:
    done = run_command(*command, "--help", environment={**os.environ, "COLUMNS": str(columns), "TERM": "dumb"})
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("command", [(), ("token",), ("persona", "set"), ("dead-letters", "replay")])
def test_flags_have_no_type(command: tuple[str, ...]) -> None:
    told = help_of(*command)
    assert "--help" in told
    assert "<bool>" not in told


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("up", "--broker", "foo"), "'--broker': 'foo' is not one of 'embedded', "),
        (("token", "--user", "u", "--scope", "x"), "'--scope': 'x' is not one of "),
        (("send", "hello", "--wait", "y"), "'--wait': it must be a whole number"),
        (("send", "hello", "--wait", "61"), "'--wait': it must be at most 60"),
    ],
)
def test_a_wrong_option_is_told_in_plain_words(command: tuple[str, ...], told: str) -> None:
    done = run_command(*command, environment={**os.environ, "COLUMNS": "200", "TERM": "dumb"})
    assert done.returncode == 2
    assert f"Invalid value for {told}" in done.stderr


def test_paragraphs_fill_the_terminal() -> None:
    lines = [line.strip() for line in help_of("up", columns=80).splitlines()]
    assert "sessions again; Apache Kafka keeps its records, and goes on where it was." in lines


def test_up_tells_the_directory_that_it_would_use() -> None:
    assert f"[default: {DEFAULT_DIRECTORY}]" in help_of("up")


def test_words_that_are_long_lists_or_of_this_machine_are_not_in_the_way() -> None:
    told = " ".join(help_of("token", columns=100).replace("│", "").split())
    assert "messages:write, sessions:read, sessions:cancel, " in told
    assert "[default: your user name]" in help_of("dead-letters", "drop")


def test_up_s_help_needs_nothing_that_only_up_needs() -> None:
    hidden = "import sys; sys.modules['psutil'] = None; from services.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "up", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a directory of yours" in " ".join(done.stdout.replace("│", " ").split())


def test_a_persona_is_a_line() -> None:
    shown = {"webhookUrl": "http://n8n/a", "timeoutSeconds": 10.0, "deadlineSeconds": 60.0, "idempotent": False}
    lines = personas.persona_lines(
        [
            {**shown, "personaId": "a", "maxAttempts": 1, "hasAuth": False, "callbackSeconds": 600.0},
            {
                **shown,
                "personaId": "long",
                "webhookUrl": "http://n8n/long",
                "maxAttempts": 3,
                "hasAuth": True,
                "idempotent": True,
                "paused": True,
            },
        ]
    )
    assert list(lines) == [
        "a     http://n8n/a     10 s a call, 1 attempt, 60 s in all, replies by callback within 600 s",
        "long  http://n8n/long  paused, 10 s a call, 3 attempts, 60 s in all, idempotent, with credentials",
    ]


def test_a_wrong_setting_names_the_processes_that_would_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"JWT_SECRET": "s" * 32})
    assert settings_problems() == {}
    os.environ.update({"LOG_LEVEL": "loud", "JWT_SECRET": "short"})
    wrong_level, wrong_secret = sorted(settings_problems().items(), reverse=True)
    assert wrong_level[0].startswith("LOG_LEVEL is wrong: ")
    assert wrong_level[1] == [*PROCESSES]
    assert wrong_secret == ("JWT_SECRET is wrong: it needs at least 32 bytes.", ["gateway"])


@pytest.mark.parametrize(
    ("options", "told"),
    [(("--n8n", "localhost:5678"), "--n8n must be a URL"), (("--broker", "kafka", "--kafka", "x:1"), "Give either")],
)
def test_options_of_up_that_cannot_be_are_one_line(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = run_command("up", "--data-dir", str(tmp_path / "none"), *options, environment=os.environ)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"Error: {told}")
    assert not (tmp_path / "none").exists()


def test_check_tells_problems_a_line_each_and_connects_to_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 32 + "\n")
    command = [sys.executable, "-m", "services.cli", "gateway", "--check"]
    # Nothing is there that it could connect to.
    well = {"PATH": os.defpath, "JWT_SECRET_FILE": str(secret), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = subprocess.run(command, env=well, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "The gateway can start with these settings.\n"), done.stderr
    wrong = {**well, "LOG_LEVEL": "loud", "GATEWAY_PORT": "many", "KAFKA_SSL_CAFILE": str(tmp_path / "none")}
    done = run_command("gateway", "--check", environment=wrong)
    assert (done.returncode, done.stdout) == (1, "")
    assert {line.split()[0] for line in done.stderr.splitlines()} == {"LOG_LEVEL", "GATEWAY_PORT", "KAFKA_SSL_CAFILE"}
