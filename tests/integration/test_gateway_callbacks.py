"""Replies by callback: what is published, what is refused, and that the address stays secret."""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet

from services.api_gateway.answer_models import CallbackTaken, ProblemDetails
from services.api_gateway.routes.callbacks import CALLBACKS_A_MINUTE, MAX_CALLBACK_BYTES
from services.contracts import FailureKind, WebhookFailed, WebhookSucceeded
from services.contracts.admission import MAX_REPLY_BYTES
from services.contracts.callbacks import Callback, CallbackUrls
from services.contracts.ids import derived_id, new_id
from services.contracts.topics import RESULTS
from services.local.broker import start_broker
from services.local.processes import free_port
from services.local.reaper import Reaper
from tests.integration.gateway import Gateway, ready, running_gateway

pytestmark = pytest.mark.any_broker

KEY = Fernet.generate_key().decode()
URLS = CallbackUrls("", KEY.encode())
"""Of the gateway itself: paths alone."""
CONFIGURED = {"callback_base_url": "http://127.0.0.1:1", "persona_secrets_key": KEY}


@pytest.fixture
async def gateway(broker: str) -> AsyncIterator[Gateway]:
    # PostgreSQL is away: callbacks do not need it.
    nowhere = "postgresql+asyncpg://nobody@127.0.0.1:1/nothing"
    async with running_gateway(broker, nowhere, **CONFIGURED) as running:
        await ready(running)
        yield running


def callback(conversation: str, seconds: float = 60, attempt: int = 1) -> Callback:
    now = datetime.now(UTC)
    called_at = now - timedelta(seconds=2)
    return Callback(new_id(), conversation, "p1", "ada", attempt, called_at, now + timedelta(seconds=seconds))


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, ProblemDetails.model_validate(answer.json()).code


async def test_a_reply_becomes_the_event_that_completes_the_session(gateway: Gateway) -> None:
    one = callback("c-reply", attempt=2)
    async with gateway.log_of(RESULTS, "c-reply") as log:
        answer = await gateway.http.post(URLS.url(one), json={"reply": "the \0 report"})
        assert answer.status_code == 202
        assert CallbackTaken.model_validate(answer.json()).session_id == one.session_id
        event = await log.next()
        assert isinstance(event, WebhookSucceeded)
        assert (event.reply, event.attempt, event.status_code) == ("the \ufffd report", 2, 200)
        assert (event.session_id, event.conversation_id, event.persona_id, event.user_id) == (*one[:4],)
        assert event.duration_ms >= 2000
        again = await gateway.http.post(URLS.url(one), content="later words", headers={"content-type": "text/plain"})
        assert again.status_code == 202
        assert (await log.next()).event_id == event.event_id == derived_id(one.session_id, "callback")


async def test_a_workflow_may_report_that_it_failed(gateway: Gateway) -> None:
    one = callback("c-error")
    async with gateway.log_of(RESULTS, "c-error") as log:
        assert (await gateway.http.post(URLS.url(one), json={"error": "no paper"})).status_code == 202
        event = await log.next()
    assert isinstance(event, WebhookFailed)
    assert event.failure_kind is FailureKind.WORKFLOW_ERROR
    assert "no paper" in event.error_message


async def test_what_is_no_reply_or_comes_too_late_changes_nothing(gateway: Gateway) -> None:
    one, late = callback("c-refused"), callback("c-refused", seconds=-0.001)
    stolen = CallbackUrls("", Fernet.generate_key()).url(one)
    async with gateway.log_of(RESULTS, "c-refused") as log:
        for url, content, expected in [
            (URLS.url(one), b"", (400, "no-reply")),
            (URLS.url(one), b'{"answer": 1}', (400, "bad-reply")),
            (URLS.url(one), b'{"message": "Workflow was started"}', (400, "acknowledged-only")),
            (URLS.url(one), b"x" * (MAX_CALLBACK_BYTES + 1), (413, "body-too-large")),
            (URLS.url(one) + "?a=b", b"hello", (400, "invalid-parameter")),
            (URLS.url(late), b"hello", (410, "callback-expired")),
            (stolen, b"hello", (404, "no-such-callback")),
            ("/api/callbacks/nonsense", b"hello", (404, "no-such-callback")),
            ("/api/callbacks/%00%ff", b"hello", (404, "no-such-callback")),
        ]:
            answer = await gateway.http.post(url, content=content)
            assert told(answer) == expected, url
            assert url.rpartition("/")[2] not in answer.text
        assert await log.is_silent(300)
        largest = b'"' + b"x" * MAX_REPLY_BYTES + b'"'
        answer = await gateway.http.post(URLS.url(one), content=largest, headers={"content-type": "application/json"})
        assert answer.status_code == 202
        event = await log.next()
        assert isinstance(event, WebhookSucceeded)
        assert len(event.reply) == MAX_REPLY_BYTES


async def test_one_address_cannot_flood_the_topic(gateway: Gateway) -> None:
    one, other = callback("c-flood"), callback("c-flood")
    statuses = [(await gateway.http.post(URLS.url(one), content=b"")).status_code for _ in range(CALLBACKS_A_MINUTE)]
    assert set(statuses) == {400}
    refused = await gateway.http.post(URLS.url(one), content=b"hello")
    assert told(refused) == (429, "rate-limited")
    assert int(refused.headers["retry-after"]) > 0
    assert (await gateway.http.post(URLS.url(other), content=b"hello")).status_code == 202


async def test_the_address_is_in_no_log_and_no_metric(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = URLS.url(callback("c-secret"))
    token = url.rpartition("/")[2]
    for method, path in [("POST", url), ("GET", url), ("POST", f"{url}/"), ("POST", url[:-1]), ("DELETE", url)]:
        answer = await gateway.http.request(method, path, content=b"hello")
        assert token[:-1] not in answer.text, (method, answer.text)
    metrics = (await gateway.http.get("/metrics")).text
    assert 'chat_http_requests_total{method="POST",route="/api/callbacks/{token}",status="202"} 1.0' in metrics
    assert token[:40] not in metrics
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert [line for line in ours if token[:40] in line] == []


async def test_a_gateway_without_an_address_for_callbacks_knows_none(broker: str, postgres_url: str) -> None:
    async with running_gateway(broker, postgres_url, persona_secrets_key=KEY) as gateway:
        answer = await gateway.http.post(URLS.url(callback("c-none")), content=b"hello")
    assert told(answer) == (404, "no-such-callback")


async def test_a_reply_that_kafka_does_not_acknowledge_is_503(
    session_directory: Path, reaper: Reaper, postgres_url: str
) -> None:
    broker = start_broker(free_port(), session_directory / "callbacks-broker.log", reaper)
    async with running_gateway(broker.bootstrap, postgres_url, **CONFIGURED, kafka_idempotence=False) as gateway:
        await ready(gateway)
        broker.process.popen.kill()
        broker.process.popen.wait(10)
        answer = await gateway.http.post(URLS.url(callback("c-away")), content=b"hello")
    assert told(answer) == (503, "not-acknowledged")
    assert answer.headers["retry-after"] == "5"
