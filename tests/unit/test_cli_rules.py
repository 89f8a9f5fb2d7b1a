"""The pure half of the command line: tokens, explanations."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest

from services.commands.explain import explain_session, timeline_lines
from services.commands.tokens import mint_token
from services.commands.wording import counted, listed, shown
from services.contracts.session import FailureKind, SessionStatus
from services.session_tracker.timeouts import REQUESTED_BY

SECRET = "s" * 32
NOW = datetime.now(UTC).replace(microsecond=0)


def test_a_token_carries_user_roles_and_times() -> None:
    token = mint_token("u1", SECRET, admin=False, now=NOW, lifetime=timedelta(hours=1))
    assert jwt.decode(token, SECRET, algorithms=["HS256"]) == {
        "sub": "u1",
        "roles": ["USER"],
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 3600,
    }


def test_an_admin_s_token_may_name_issuer_and_audience() -> None:
    token = mint_token("a", SECRET, admin=True, now=NOW, lifetime=timedelta(hours=1), issuer="me", audience="chat")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="chat", issuer="me")
    assert claims["roles"] == ["USER", "ADMIN"]


def test_a_service_s_token_names_it_and_what_it_may_do() -> None:
    token = mint_token(
        "u1", SECRET, admin=False, now=NOW, lifetime=timedelta(hours=1), scopes=["messages:write"], service="billing"
    )
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["act"], claims["scope"]) == ("u1", {"sub": "billing"}, "messages:write")


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
    accepted = {"type": "WebhookAttempted", "outcome": "accepted", "deadlineAt": "2026-11-22T12:00:00Z"}
    assert "until 2026-11-22T12:00:00Z" in explain_session({**attempted, "timeline": [accepted]})[-1]
    assert timeline_lines(untouched) == ["  now  MessageSent"]


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        (
            {"maxAgeHours": 1.0, "requestedBy": "root"},
            "A sweep that root asked for ended it, because nothing had happened for 1 hour.",
        ),
        (
            {"maxAgeHours": 0.5, "requestedBy": REQUESTED_BY},
            "The scheduled sweep ended it, because nothing had happened for 0.5 hours.",
        ),
        (
            {"maxAgeHours": 1.0, "late": True},
            "A sweep ended it, because nothing had happened for longer than it allowed.",
        ),
    ],
)
def test_a_timeout_is_explained_by_its_own_sweep(sweep: dict[str, object], told: str) -> None:
    session = {"sessionId": "s", "status": "TIMEOUT", "timeline": [{"type": "TimeoutSweep", "at": "now", **sweep}]}
    assert explain_session(session)[0] == f"Session s is TIMEOUT. {told}"


def test_a_timeline_leaves_out_what_goes_without_saying() -> None:
    first, next_day = "2026-01-31T23:59:59.999999Z", "2026-02-01T00:00:01Z"
    session = {
        "errorMessage": "It failed so.",
        "timeline": [
            {"type": "MessageSent", "at": first, "late": False},
            {"type": "WebhookAttempted", "at": first, "late": False, "errorMessage": "once", "retryAt": next_day},
            {"type": "WebhookFailed", "at": next_day, "late": False, "errorMessage": "It failed so."},
            {"type": "WebhookFailed", "at": next_day, "late": True, "errorMessage": "once"},
            {"type": "TimeoutSweep", "at": next_day, "asOf": next_day, "dryRun": False, "late": True, "sweepId": "x"},
        ],
    }
    assert timeline_lines(session) == [
        "  2026-01-31 23:59:59.999  MessageSent",
        "             23:59:59.999  WebhookAttempted  errorMessage=once  retryAt=00:00:01.000",
        "  2026-02-01 00:00:01.000  WebhookFailed",
        "             00:00:01.000  WebhookFailed  late",
        "             00:00:01.000  TimeoutSweep  late  sweepId=x",
    ]


def test_foreign_text_does_nothing_to_a_terminal() -> None:
    assert shown("plain", 10) == "plain"
    assert shown("two words", 10) == "'two words'"
    assert shown("\x1b[31m\x9b\n", 10) == "'\\x1b[31m\\x9b\\n'"
    assert shown("x" * 11, 10) == "x" * 10 + "…"


def test_counts_and_lists_are_words() -> None:
    assert [counted(number, "record") for number in (0, 1, 2)] == ["0 records", "1 record", "2 records"]
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
