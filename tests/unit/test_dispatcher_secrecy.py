"""What a webhook repeats of its credentials is not told on."""

import base64
import json
from typing import Any

import pytest
from cryptography.fernet import Fernet

from services.contracts.secrecy import HIDDEN, forms, without_secrets
from services.webhook_dispatcher.delivery import Failed, judge
from services.webhook_dispatcher.outcomes import Answer
from services.webhook_dispatcher.personas import Persona, read_persona

FERNET = Fernet(Fernet.generate_key())
SECRET = 'p"äss/w&rd-' + "x" * 32
KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()


class _Row:
    """A row of the table of personas."""

    persona_id, webhook_url = "p1", "https://n8n.example/webhook/p1"
    timeout_seconds, max_attempts, deadline_seconds, idempotent = 10.0, 3, 60.0, False
    first_byte_seconds = idle_seconds = callback_seconds = n8n_api_url = n8n_api_key = None
    session_timeout_hours = None
    paused = False

    def __init__(self, auth: object, signing_keys: object = None) -> None:
        self.auth = None if auth is None else FERNET.encrypt(json.dumps(auth).encode())
        self.signing_keys = None if signing_keys is None else FERNET.encrypt(json.dumps(signing_keys).encode())


def persona(auth: object, signing_keys: object = None) -> Persona:
    row: Any = _Row(auth, signing_keys)
    return read_persona(row, FERNET)


AUTHS = [
    {"type": "basic", "username": "ada", "password": SECRET},
    {"type": "header", "name": "authorization", "value": f"Bearer {SECRET}"},
    {"type": "jwt", "secret": SECRET, "algorithm": "HS256"},
]


@pytest.mark.parametrize("auth", AUTHS, ids=lambda auth: auth["type"])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_failing_answer_tells_no_secret(auth: dict[str, str], status: int) -> None:
    called = persona(auth, [KEY])
    proof = called.credentials.prove(session_id="s", user_id="u", body=b"{}", now=1.0)
    echoed = {"message": f"{SECRET} {proof.headers['authorization']}", "headers": proof.headers, "all": [SECRET, KEY]}
    for body in (
        json.dumps({"x": echoed, **echoed}),
        json.dumps({"x": echoed}, ensure_ascii=False),
        f"<pre>{SECRET} {KEY}",
    ):
        verdict = judge(Answer(status, body.encode(), "application/json", secrets=proof.secrets))
        if not isinstance(verdict, Failed):
            continue
        told = f"{verdict.explanation}{verdict.response_body}"
        assert HIDDEN in told
        assert verdict.response_body is not None
        for secret in (SECRET, json.dumps(SECRET)[1:-1], KEY.removeprefix("whsec_")):
            assert secret not in told
        assert proof.headers["authorization"].partition(" ")[2] not in told


def test_a_secret_is_hidden_before_the_text_is_cut() -> None:
    body = ("x" * 290 + SECRET + "y" * 2000).encode()
    stream = b'{"type":"begin"}\n{"type":"error","content":"' + b"x" * 290 + b'topsecret"}\n'
    for answer in (
        Answer(500, json.dumps({"message": body.decode()}).encode(), secrets=tuple(forms(SECRET))),
        Answer(200, stream, "application/json", secrets=("topsecret",)),
    ):
        verdict = judge(answer)
        assert isinstance(verdict, Failed)
        assert 'p"' not in f"{verdict.explanation}{verdict.response_body}"
        assert "topse" not in f"{verdict.explanation}{verdict.response_body}"


def test_without_secrets_a_text_is_as_it_was() -> None:
    assert without_secrets("Error in workflow", ()) == "Error in workflow"
    assert forms("") == set()


@pytest.mark.parametrize(
    ("auth", "keys"),
    [
        (
            {
                "type": "jwt",
                "secret": "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n",
                "algorithm": "HS256",
            },
            None,
        ),
        ({"type": "jwt", "secret": "s" * 32, "algorithm": "none"}, None),
        ({"type": "token"}, None),
        (None, ["whsec_short"]),
        (None, "whsec_"),
    ],
)
def test_what_cannot_be_used_is_told_and_not_called_with(auth: object, keys: object) -> None:
    read = persona(auth, keys)
    assert read.auth_unreadable
    assert read.credentials.secrets == ()
