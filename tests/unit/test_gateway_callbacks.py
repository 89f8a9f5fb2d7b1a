"""What a post to a callback URL says, which event it becomes, and what such a URL gives away."""

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from services.api_gateway.callbacks import ReportedFailure, read_callback, result_of
from services.contracts import FailureKind, WebhookFailed, WebhookSucceeded, admit
from services.contracts.callbacks import MAX_TOKEN_CHARACTERS, Callback, CallbackUrls, token_of
from services.contracts.ids import new_id
from services.contracts.replies import NoReply, Reply
from services.contracts.secrecy import HIDDEN
from services.runtime.settings import PersonaSettings

NOW = datetime.now(UTC)
JSON = "application/json"
KEY = Fernet.generate_key()
TOKEN = Fernet(KEY).encrypt(b"").decode()


def callback(text: str = "c-1") -> Callback:
    return Callback(new_id(), text, text, text, 2, NOW, NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b'{"reply": "done"}', JSON, "done"),
        (b'[{"output": "done"}]', JSON, "done"),
        (b"done", "text/plain", "done"),
        (b'{"reply": "d\\u0000ne\\ud800"}', JSON, "d\ufffdne\ufffd"),
        (b'{"error": null, "text": "done"}', JSON, "done"),
        (b'{"error": false, "message": "done"}', JSON, "done"),
    ],
)
def test_a_reply_is_read_as_from_an_answer(body: bytes, content_type: str, text: str) -> None:
    assert read_callback(body, content_type, token=TOKEN) == Reply(text)


@pytest.mark.parametrize(
    "error", ["no\ud800 report", {"message": "no report", "stack": "…"}, {"code": 7}, ["x" * 5_000], True]
)
def test_an_error_is_a_failure_that_the_workflow_reports(error: object) -> None:
    posted = read_callback(json.dumps({"error": error, "reply": "and yet"}).encode(), JSON, token=TOKEN)
    assert isinstance(posted, ReportedFailure)
    event = result_of(callback(), posted, NOW)
    assert isinstance(event, WebhookFailed)
    assert event.failure_kind is FailureKind.WORKFLOW_ERROR
    assert event.error_message.startswith("The workflow reported that it failed (it says: ")
    admit(event, datetime.now(UTC))


@pytest.mark.parametrize(
    "body",
    [
        {"error": f"POST https://chat.example.com/api/callbacks/{TOKEN} failed"},
        {"error": {"url": f"/{TOKEN}", "code": 7}},
        {"type": "error", "content": f"POST {quote(TOKEN, safe='')} failed"},
    ],
)
def test_an_explanation_does_not_tell_the_url(body: object) -> None:
    posted = read_callback(json.dumps(body).encode(), JSON, token=TOKEN)
    assert isinstance(posted, ReportedFailure | NoReply)
    assert HIDDEN in posted.explanation
    assert TOKEN.rstrip("=") not in posted.explanation


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FailureKind.NO_REPLY),
        (b"{}", FailureKind.NO_REPLY),
        (b'{"answer": 1}', FailureKind.BAD_REPLY),
        (b'{"reply": ', FailureKind.BAD_REPLY),
        (b"[" * 100_000, FailureKind.BAD_REPLY),
        (json.dumps({"reply": "x" * 300_000}).encode(), FailureKind.TOO_LARGE),
    ],
)
def test_what_is_no_reply_says_why(body: bytes, kind: FailureKind) -> None:
    posted = read_callback(body, JSON, token=TOKEN)
    assert isinstance(posted, NoReply)
    assert posted.kind is kind


def test_every_post_of_one_session_is_one_event() -> None:
    one = callback()
    first = result_of(one, Reply("a"), NOW + timedelta(seconds=90))
    assert isinstance(first, WebhookSucceeded)
    assert (first.attempt, first.duration_ms, first.reply) == (2, 90_000, "a")
    again = result_of(one._replace(attempt=3), ReportedFailure("b"), NOW)
    assert again.event_id == first.event_id
    assert result_of(callback(), Reply("a"), NOW).event_id != first.event_id
    assert result_of(one, Reply("a"), NOW - timedelta(seconds=1)).duration_ms == 0, "clocks differ"


def test_a_url_can_be_read_with_its_key_alone_and_shows_nothing() -> None:
    one, urls = callback("a conversation"), CallbackUrls("https://chat.example.com/", KEY)
    url = urls.url(one)
    assert url.startswith("https://chat.example.com/api/callbacks/")
    token = token_of(url)
    assert urls.read(token) == one
    assert CallbackUrls("https://elsewhere.example", KEY).read(token) == one, "the address may change"
    assert CallbackUrls("https://chat.example.com", Fernet.generate_key()).read(token) is None
    assert urls.read(Fernet(KEY).encrypt(b"[]").decode()) is None, "what else the secret encrypts is no callback"
    assert str(one.session_id) not in token


def test_a_token_that_was_tampered_with_is_none() -> None:
    urls = CallbackUrls("https://chat.example.com", KEY)
    token = token_of(urls.url(callback()))
    other = token_of(urls.url(callback()))
    wrong = ["", "x", "\0", "é", token[:-8], token[:100] + other[100:], "A" * MAX_TOKEN_CHARACTERS, token * 20]
    wrong += [token[:n] + ("A" if token[n] != "A" else "B") + token[n + 1 :] for n in range(0, len(token) - 4, 7)]
    assert [bad for bad in wrong if urls.read(bad) is not None] == []


def test_the_longest_ids_fit() -> None:
    for text in ("\U0001f600" * 128, "\x01" * 128):
        urls, one = CallbackUrls("https://chat.example.com", KEY), callback(text)
        assert urls.read(token_of(urls.url(one))) == one


@pytest.mark.parametrize("url", ["chat.example.com", "ftp://x", "https://u:p@x", "https://x/?a=b", "https://x/#a"])
def test_the_address_for_callbacks_is_a_plain_one(url: str) -> None:
    with pytest.raises(ValidationError):
        PersonaSettings(callback_base_url=url, persona_secrets_key=KEY.decode())


def test_callbacks_need_a_secret() -> None:
    with pytest.raises(ValidationError, match="PERSONA_SECRETS_KEY"):
        PersonaSettings(callback_base_url="https://chat.example.com")
    assert PersonaSettings().callback_urls is None
