"""Whom `chat-sessions send` sends as, where a token is given: nothing is sent that says otherwise."""

import os
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from services.runtime.tokens import mint_token, user_of
from tests.command_line import run_command

NOWHERE = {"PATH": os.defpath, "CHAT_SESSIONS_URL": "http://127.0.0.1:1"}


def test_a_token_names_its_user_whoever_signed_it() -> None:
    token = mint_token("ada", "s" * 32, admin=False, now=datetime.now(UTC), lifetime=timedelta(seconds=-1))
    assert user_of(token) == "ada"


@pytest.mark.parametrize("token", ["opaque", "a.b.c", jwt.encode({"sub": 7}, "s" * 32), jwt.encode({}, "s" * 32)])
def test_what_names_no_user_is_refused(token: str) -> None:
    assert user_of(token) is None
    done = run_command("send", "hello", environment={**NOWHERE, "CHAT_SESSIONS_TOKEN": token})
    assert (done.returncode, done.stderr) == (
        1,
        "Error: CHAT_SESSIONS_TOKEN is no JSON Web Token that names its user (`sub`): correct it.\n",
    )


def test_a_user_beside_a_token_is_refused() -> None:
    done = run_command("send", "hello", "--user", "ada", environment={**NOWHERE, "CHAT_SESSIONS_TOKEN": "t"})
    assert (done.returncode, done.stderr) == (
        1,
        "Error: CHAT_SESSIONS_TOKEN says as which user: unset it, or leave out --user.\n",
    )


def test_without_a_token_and_a_secret_both_are_named() -> None:
    done = run_command("send", "hello", environment=NOWHERE)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Neither CHAT_SESSIONS_TOKEN, a token for the gateway, nor JWT_SECRET, ")
