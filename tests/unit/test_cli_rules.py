"""The pure half of the command line: tokens, explanations."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest

from services.commands.explain import explain_session, timeline_lines
from services.commands.tokens import mint_token
from services.contracts.session import FailureKind, SessionStatus

SECRET = "s" * 32
NOW = datetime.now(UTC).replace(microsecond=0)


def test_a_token_carries_user_roles_and_times() -> None:
    token = mint_token("u1", SECRET, admin=False, now=NOW, lifetime=timedelta(minutes=5))
    assert jwt.decode(token, SECRET, algorithms=["HS256"]) == {
        "sub": "u1",
        "roles": ["USER"],
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 300,
    }


def test_an_admin_s_token_may_name_issuer_and_audience() -> None:
    token = mint_token("a", SECRET, admin=True, now=NOW, lifetime=timedelta(minutes=5), issuer="me", audience="chat")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="chat", issuer="me")
    assert claims["roles"] == ["USER", "ADMIN"]


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_has_a_cause_of_its_own(kind: FailureKind) -> None:
    failed = {"sessionId": "s", "status": "FAILED", "failureKind": kind.value, "errorMessage": "It failed so."}
    sentences = explain_session(failed)
    assert sentences[1] == "It says: It failed so."
    others = [explain_session({**failed, "failureKind": other.value})[2] for other in FailureKind if other != kind]
    assert sentences[2] not in others


@pytest.mark.parametrize("status", SessionStatus)
def test_every_status_has_a_meaning(status: SessionStatus) -> None:
    assert explain_session({"sessionId": "s", "status": status.value})[0].startswith(f"Session s is {status}. ")


def test_an_active_session_is_explained_by_its_timeline() -> None:
    untouched = {
        "sessionId": "s",
        "status": "ACTIVE",
        "timeline": [{"late": False, "type": "MessageSent", "at": "now"}],
    }
    attempted = {**untouched, "timeline": [{"type": "WebhookAttempted"}]}
    assert "No attempt has been told" in explain_session(untouched)[-1]
    assert "An attempt has been told" in explain_session(attempted)[-1]
    assert timeline_lines(untouched) == ["  now  MessageSent  late=False"]
