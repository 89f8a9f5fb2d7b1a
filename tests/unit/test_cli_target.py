"""Which system the tools speak to, and what they say where it may not be the one that was meant."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from services.commands.target import CommandError, chosen_target
from services.local import data_directory


@pytest.fixture
def default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `up` would keep its data; no stack runs there."""
    monkeypatch.setattr(data_directory, "default_data_directory", lambda: tmp_path)
    return tmp_path


def run_stack(directory: Path) -> None:
    """Leave in `directory` what a running stack leaves there."""
    stack = {
        "kafkaSettings": {"KAFKA_IDEMPOTENCE": "false"},
        "kafkaBootstrap": "127.0.0.1:1",
        "databaseUrl": "postgresql://nobody@127.0.0.1/nothing",
        "gatewayUrl": "http://127.0.0.1:2",
        "opsUrls": {"gateway": "http://127.0.0.1:2"},
        "processes": {"gateway": 7},
    }
    (directory / "stack.json").write_text(json.dumps(stack))
    (directory / "jwt-secret").write_text("s" * 32)
    (directory / "persona-secrets-key").write_text("k")


def environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Make `variables` the whole environment."""
    monkeypatch.setattr(os, "environ", dict(variables))


def test_the_default_stack_is_spoken_to_where_nothing_names_another(
    default_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stack(default_directory)
    environment(monkeypatch, {"KAFKA_BOOTSTRAP_SERVERS": "", "CHAT_SESSIONS_TOKEN": "another's", "JWT_JWKS_URL": "x"})
    with chosen_target(None) as target:
        assert (target.is_stack, target.gateway_url) == (True, "http://127.0.0.1:2")
        assert target.pids == {"gateway": 7}
        assert target.token("u", admin=False)
    assert os.environ["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:1"
    assert not {"CHAT_SESSIONS_TOKEN", "JWT_JWKS_URL"} & set(os.environ)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:2", "http://localhost:2/"])
def test_the_default_stack_is_spoken_to_at_its_own_address_as_the_token_says_that_was_given_with_it(
    url: str, default_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stack(default_directory)
    environment(monkeypatch, {"CHAT_SESSIONS_URL": url, "CHAT_SESSIONS_TOKEN": "theirs"})
    with chosen_target(None) as target:
        assert (target.is_stack, target.gateway_url) == (True, "http://127.0.0.1:2")
        assert target.client("u", admin=True).headers["authorization"] == "Bearer theirs"
        assert target.token("u", admin=False)
    assert os.environ["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:1"


@pytest.mark.parametrize("others", [{"CHAT_SESSIONS_URL": "http://127.0.0.1:3"}, {"DATABASE_URL": "postgresql://x"}])
def test_another_address_or_database_is_not_that_of_the_default_stack(
    others: Mapping[str, str], default_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stack(default_directory)
    environment(monkeypatch, {"CHAT_SESSIONS_URL": "http://127.0.0.1:2", **others})
    with chosen_target(None) as target:
        assert not target.is_stack
        assert "is not used" in str(target.passed_over)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"DATABASE_URL": "postgresql://x"}, "DATABASE_URL is set, so the stack in {} is not used: unset it or give"),
        (
            {"GATEWAY_PORT": "3000", "KAFKA_BOOTSTRAP_SERVERS": "x:1"},
            "KAFKA_BOOTSTRAP_SERVERS and GATEWAY_PORT are set, so the stack in {} is not used: unset them or give",
        ),
    ],
)
def test_an_error_tells_which_stack_was_passed_over_and_why(
    variables: Mapping[str, str], told: str, default_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stack(default_directory)
    environment(monkeypatch, variables)
    with pytest.raises(CommandError) as raised, chosen_target(None) as target:
        target.token("u", admin=False)
    assert str(raised.value).startswith("JWT_SECRET is not set, ")
    assert str(raised.value).endswith(f"{told.format(default_directory)} --data-dir.")
    with pytest.raises(CommandError, match="cannot be reached") as raised, chosen_target(None):
        raise httpx.ConnectError("refused")
    assert str(raised.value).endswith("--data-dir.")


def test_an_error_says_nothing_of_stacks_where_none_runs(
    default_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment(monkeypatch, {"DATABASE_URL": "postgresql://x"})
    with pytest.raises(CommandError) as raised, chosen_target(None) as target:
        target.token("u", admin=False)
    assert str(default_directory) not in str(raised.value)
    assert capsys.readouterr().err == ""


def test_it_says_first_that_no_stack_runs(
    default_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment(monkeypatch, {})
    with chosen_target(None) as target:
        assert (target.is_stack, target.gateway_url) == (False, "http://127.0.0.1:3000")
    assert capsys.readouterr().err == (
        f"No stack runs in {default_directory} (start one with `make run` or `chat-sessions up`), "
        "so the environment's settings are used.\n"
    )


def test_a_directory_that_was_given_must_have_a_stack(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No stack runs in"), chosen_target(tmp_path):
        pass
