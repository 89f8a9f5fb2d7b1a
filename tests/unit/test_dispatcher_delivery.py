"""From what a call produced to a verdict, and from a verdict to the next call: every row of the tables."""

import json
from datetime import UTC, datetime

import pytest

from services.contracts import FailureKind
from services.contracts.replies import Reply
from services.local.n8n_answers import PERSONAS, WEBHOOKS, WebhookCall
from services.webhook_dispatcher.delivery import Again, Failed, judge
from services.webhook_dispatcher.outcomes import Answer, NoAnswer, Trouble
from services.webhook_dispatcher.retries import LONGEST_BACKOFF_SECONDS, retry_after_seconds, retry_delay

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)


def verdict_of(outcome: Answer | NoAnswer) -> Failed:
    verdict = judge(outcome)
    assert isinstance(verdict, Failed)
    return verdict


def said(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"message": message}).encode(), "application/json")


N8N = {
    "echo": None,
    "slow": None,
    "flaky": (FailureKind.WORKFLOW_ERROR, Again.ANYONE),
    "streaming": None,
    "immediate": (FailureKind.ACKNOWLEDGED_ONLY, Again.NOBODY),
    "last-node-empty": (FailureKind.NO_REPLY, Again.NOBODY),
    "empty": (FailureKind.NO_REPLY, Again.NOBODY),
    "broken": (FailureKind.WORKFLOW_ERROR, Again.IDEMPOTENT),
    "cannot-start": (FailureKind.WORKFLOW_ERROR, Again.ANYONE),
    "not-registered": (FailureKind.NOT_REGISTERED, Again.NOBODY),
    "unauthorized": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "forbidden": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "overloaded": (FailureKind.HTTP_4XX, Again.ANYONE),
    "callback": (FailureKind.ACKNOWLEDGED_ONLY, Again.NOBODY),  # unless the persona says that it replies by callback
    "forgetful": (FailureKind.ACKNOWLEDGED_ONLY, Again.NOBODY),
    "uneven": None,
    "hang": None,
    "cloud-timeout": (FailureKind.TIMEOUT, Again.IDEMPOTENT),
}


def test_every_persona_of_the_stub_has_its_row() -> None:
    assert N8N.keys() == PERSONAS.keys()


@pytest.mark.parametrize("persona", N8N)
def test_what_n8n_answers(persona: str) -> None:
    answer = PERSONAS[persona](WebhookCall(persona, "s", "hello there", 1))
    if answer is None:
        assert persona == "hang"
        return
    headers = dict(answer.headers)
    verdict = judge(
        Answer(answer.status, b"".join(answer.body), answer.content_type, retry_after=headers.get("retry-after"))
    )
    if N8N[persona] is None:
        assert verdict == Reply("You said: hello there")
    else:
        assert isinstance(verdict, Failed)
        assert (verdict.kind, verdict.again) == N8N[persona]
        assert verdict.status == answer.status
        assert verdict.explanation.endswith(".")


@pytest.mark.parametrize(
    ("trouble", "kind", "again", "unwell"),
    [
        (Trouble.NOT_RESOLVED, FailureKind.CONNECT, Again.ANYONE, True),
        (Trouble.NOT_CONNECTED, FailureKind.CONNECT, Again.ANYONE, True),
        (Trouble.TLS_FAILED, FailureKind.TLS, Again.ANYONE, True),
        (Trouble.ADDRESS_REFUSED, FailureKind.ADDRESS_REFUSED, Again.NOBODY, False),
        (Trouble.NOT_IN_TIME, FailureKind.TIMEOUT, Again.IDEMPOTENT, True),
        (Trouble.LOST, FailureKind.CONNECT, Again.IDEMPOTENT, True),
        (Trouble.TOO_LARGE, FailureKind.TOO_LARGE, Again.NOBODY, False),
        (Trouble.NOT_HTTP, FailureKind.BAD_REPLY, Again.NOBODY, False),
        (Trouble.NO_CREDENTIALS, FailureKind.UNAUTHORIZED, Again.NOBODY, False),
    ],
)
def test_no_answer(trouble: Trouble, kind: FailureKind, again: Again, unwell: bool) -> None:
    verdict = verdict_of(NoAnswer(trouble, "as told"))
    assert (verdict.kind, verdict.again, verdict.unwell, verdict.status) == (kind, again, unwell, None)
    assert verdict.explanation.endswith(" (as told).")
    assert verdict_of(NoAnswer(trouble)).explanation.count("(") == 0


def test_every_trouble_has_its_row() -> None:
    for trouble in Trouble:
        assert verdict_of(NoAnswer(trouble)).explanation


@pytest.mark.parametrize(
    ("status", "kind", "again", "unwell"),
    [
        (101, FailureKind.HTTP_4XX, Again.NOBODY, False),
        (301, FailureKind.HTTP_4XX, Again.NOBODY, False),
        (302, FailureKind.HTTP_4XX, Again.NOBODY, False),
        (400, FailureKind.HTTP_4XX, Again.NOBODY, False),
        (401, FailureKind.UNAUTHORIZED, Again.NOBODY, False),
        (403, FailureKind.UNAUTHORIZED, Again.NOBODY, False),
        (404, FailureKind.HTTP_4XX, Again.NOBODY, False),
        (408, FailureKind.HTTP_4XX, Again.IDEMPOTENT, True),
        (422, FailureKind.HTTP_4XX, Again.NOBODY, False),
        (429, FailureKind.HTTP_4XX, Again.ANYONE, True),
        (500, FailureKind.HTTP_5XX, Again.IDEMPOTENT, False),
        (501, FailureKind.HTTP_5XX, Again.IDEMPOTENT, False),
        (502, FailureKind.HTTP_5XX, Again.IDEMPOTENT, True),
        (503, FailureKind.HTTP_5XX, Again.ANYONE, True),
        (504, FailureKind.TIMEOUT, Again.IDEMPOTENT, True),
        (524, FailureKind.TIMEOUT, Again.IDEMPOTENT, True),
        (599, FailureKind.HTTP_5XX, Again.IDEMPOTENT, False),
        (999, FailureKind.HTTP_4XX, Again.NOBODY, False),
    ],
)
def test_a_status_without_n8ns_words(status: int, kind: FailureKind, again: Again, unwell: bool) -> None:
    verdict = verdict_of(Answer(status, b"<html>nginx</html>", "text/html", retry_after="7"))
    assert (verdict.kind, verdict.again, verdict.unwell) == (kind, again, unwell)
    assert (verdict.status, verdict.retry_after, verdict.response_body) == (status, "7", "<html>nginx</html>")
    assert f"it answered {status}" in verdict.explanation


def test_words_that_only_sound_like_n8ns_own_do_not_allow_a_second_run() -> None:
    assert verdict_of(said(500, "The job could not be started!")).again is Again.IDEMPOTENT
    assert verdict_of(said(502, "Workflow Webhook Error: Workflow could not be started!")).again is Again.IDEMPOTENT
    assert verdict_of(said(404, "Not registered")).kind is FailureKind.HTTP_4XX


@pytest.mark.parametrize(
    ("webhook", "kind", "again"),
    [
        ("last-node", None, None),
        ("dedupe", None, None),
        ("broken-before-respond", FailureKind.NO_REPLY, Again.NOBODY),
        ("broken-respond", FailureKind.NO_REPLY, Again.NOBODY),
        ("streaming-broken", FailureKind.WORKFLOW_ERROR, Again.IDEMPOTENT),
        ("no-respond", FailureKind.WORKFLOW_ERROR, Again.NOBODY),
        ("skipped", FailureKind.NO_REPLY, Again.NOBODY),
        ("wrong-method", FailureKind.NOT_REGISTERED, Again.NOBODY),
        ("wrong-password", FailureKind.UNAUTHORIZED, Again.NOBODY),
        ("no-token", FailureKind.UNAUTHORIZED, Again.NOBODY),
        ("wrong-token", FailureKind.UNAUTHORIZED, Again.NOBODY),
    ],
)
def test_what_n8n_answers_more_rarely(webhook: str, kind: FailureKind | None, again: Again | None) -> None:
    answer = WEBHOOKS[webhook](WebhookCall(webhook, "s", "hello there", 1))
    assert answer is not None
    verdict = judge(Answer(answer.status, b"".join(answer.body), answer.content_type))
    if kind is None:
        assert verdict == Reply("You said: hello there")
    else:
        assert isinstance(verdict, Failed)
        assert (verdict.kind, verdict.again) == (kind, again)


def test_every_2xx_may_bring_a_reply() -> None:
    assert judge(Answer(201, b"created")) == Reply("created")
    assert verdict_of(Answer(204, b"")).kind is FailureKind.NO_REPLY


def test_a_compressed_answer_is_not_unpacked() -> None:
    assert verdict_of(Answer(200, b"\x1f\x8b", "text/plain", content_encoding="gzip")).kind is FailureKind.BAD_REPLY
    assert judge(Answer(200, b"hi", "text/plain", content_encoding="identity")) == Reply("hi")


def test_what_is_kept_of_a_failing_body_is_short_and_storable() -> None:
    verdict = verdict_of(Answer(500, "ü\0".encode() * 4_000))
    assert verdict.response_body is not None
    assert len(verdict.response_body.encode()) <= 2048
    assert "\0" not in verdict.response_body
    assert verdict_of(Answer(500, b"")).response_body is None
    long = verdict_of(said(500, "x\0" * 5_000))
    assert len(long.explanation.encode()) <= 2048
    assert "\0" not in long.explanation
    deep = verdict_of(Answer(500, b"[" * 10_000))
    assert deep.kind is FailureKind.HTTP_5XX


def failed(again: Again = Again.ANYONE, retry_after: str | None = None) -> Failed:
    return Failed(FailureKind.HTTP_5XX, "It failed.", again, retry_after=retry_after)


def delay(verdict: Failed, **changes: float | bool) -> float | None:
    chosen = {"attempt": 1, "max_attempts": 3, "idempotent": False, "seconds_left": 60.0, "chance": 0.5} | changes
    return retry_delay(
        verdict,
        attempt=int(chosen["attempt"]),
        max_attempts=int(chosen["max_attempts"]),
        idempotent=bool(chosen["idempotent"]),
        now=NOW,
        seconds_left=chosen["seconds_left"],
        chance=chosen["chance"],
    )


@pytest.mark.parametrize(
    ("again", "idempotent", "retried"),
    [
        (Again.ANYONE, False, True),
        (Again.ANYONE, True, True),
        (Again.IDEMPOTENT, False, False),
        (Again.IDEMPOTENT, True, True),
        (Again.NOBODY, False, False),
        (Again.NOBODY, True, False),
    ],
)
def test_who_may_call_again(again: Again, idempotent: bool, retried: bool) -> None:
    assert (delay(failed(again), idempotent=idempotent) is not None) is retried


def test_attempts_are_counted() -> None:
    assert [delay(failed(), attempt=n) is None for n in (1, 2, 3, 4)] == [False, False, True, True]
    assert delay(failed(), max_attempts=1) is None


def test_the_wait_grows_to_a_limit_and_is_spread_over_all_of_it() -> None:
    assert [delay(failed(), attempt=n, max_attempts=99, chance=1.0) for n in (1, 2, 3, 4, 5, 6)] == [
        0.5, 1, 2, 4, 8, 8,
    ]  # fmt: skip
    assert delay(failed(), attempt=2_000, max_attempts=9_999, chance=1.0) == LONGEST_BACKOFF_SECONDS
    assert delay(failed(), attempt=3, max_attempts=99, chance=0.0) == 0


def test_retry_after_is_the_least_wait_within_the_deadline() -> None:
    assert delay(failed(retry_after="7")) == 7
    assert delay(failed(retry_after="7"), seconds_left=7.0) is None
    assert delay(failed(retry_after="0"), chance=1.0) == 0.5
    assert delay(failed(), seconds_left=0.2) is None
    assert delay(failed(), seconds_left=-1.0, chance=0.0) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("12", 12),
        ("-3", 0),
        ("1.5", 0),
        ("soon", 0),
        ("٣", 0),
        ("9" * 400, 999_999_999),
        ("Sun, 22 Nov 2026 10:00:30 GMT", 30),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0),
        ("Sun, 22 Nov 2026 10:00:30", 30),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after_seconds(value, NOW) == seconds
