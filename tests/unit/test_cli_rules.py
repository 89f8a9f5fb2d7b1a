"""The pure half of the command line: tokens, words."""

from datetime import UTC, datetime, timedelta

import jwt

from services.commands.wording import counted, duration, listed, shown
from services.runtime.tokens import mint_token

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


def test_foreign_text_does_nothing_to_a_terminal() -> None:
    assert shown("plain", 10) == "plain"
    assert shown("two words", 10) == "'two words'"
    assert shown("\x1b[31m\x9b\n", 10) == "'\\x1b[31m\\x9b\\n'"
    assert shown("x" * 11, 10) == "x" * 10 + "…"


def test_counts_and_lists_are_words() -> None:
    assert [counted(number, "record") for number in (0, 1, 2)] == ["0 records", "1 record", "2 records"]
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_durations_are_as_exact_as_a_person_wants_them() -> None:
    told = {0: "0.0 s", 0.0123: "12 ms", 1.25: "1.2 s", 61: "61 s", 180: "3 min", 9_000: "2.5 h", 400_000: "5 days"}
    assert {seconds: duration(seconds) for seconds in told} == told
