"""Personas that reply by callback, as the dispatcher calls them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from services.contracts import AttemptOutcome, FailureKind, WebhookAttempted, WebhookFailed
from services.contracts.callbacks import Callback, CallbackUrls, token_of
from services.contracts.topics import DELTAS
from tests.integration.dispatching import (
    add_persona,
    dispatcher,
    ended,
    results,
    results_of,
    rewind,
    until_all_committed,
)
from tests.integration.kafka_log import read_all
from tests.integration.tracker_process import publish_events
from tests.integration.webhook_server import Call, echo, http, webhook_server
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker

KEY = Fernet.generate_key()
BASE_URL = "https://chat.example.com/n8n/"
URLS = CallbackUrls(BASE_URL, KEY)
CONFIGURED: dict[str, Any] = {"callback_base_url": BASE_URL, "persona_secrets_key": SecretStr(KEY.decode())}


async def acknowledge(call: Call) -> bytes:
    return http({"message": "Workflow was started"})


async def stream(call: Call) -> bytes:
    return http(b'{"type":"begin"}\n{"type":"item","content":"Working"}\n{"type":"end"}\n')


async def refuse(call: Call) -> bytes:
    return http({"message": f"No room for {call.headers['x-key']} at {call.body['callbackUrl']}"}, status=400)


def callback_of(call: Call) -> Callback:
    url = call.body["callbackUrl"]
    assert url == call.headers["callback-url"]
    assert url.startswith("https://chat.example.com/n8n/api/callbacks/")
    found = URLS.read(token_of(url))
    assert found is not None
    return found


async def test_an_acknowledged_message_is_done_and_nobody_waits_behind_it(bootstrap: str, postgres_url: str) -> None:
    first, empty, replied, streamed = sessions = [SessionEvents() for _ in range(4)]

    async def answer(call: Call) -> bytes:
        # Whatever an acknowledgement says, it is not the reply.
        said = {first.session_id: acknowledge, replied.session_id: echo, streamed.session_id: stream}
        return http(b"") if call.session_id == empty.session_id else await said[call.session_id](call)

    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url, **CONFIGURED) as running:
        await add_persona(postgres_url, "p1", webhook.url("p1"), callbackSeconds=600.0)
        began = datetime.now(UTC)
        await publish_events(bootstrap, [session.sent() for session in sessions])
        await until_all_committed(bootstrap)
        assert await running.metric('chat_webhook_attempts_total{outcome="accepted",persona="p1"}') == 4
        told = await results(bootstrap)
    assert await read_all(bootstrap, DELTAS.name) == [], "what an acknowledgement streams is told to nobody"
    assert [event.session_id for event in told] == [session.session_id for session in sessions]
    for event, call in zip(told, webhook.calls, strict=True):
        assert isinstance(event, WebhookAttempted)
        assert (event.outcome, event.attempt, event.status_code) == (AttemptOutcome.ACCEPTED, 1, 200)
        callback = callback_of(call)
        assert callback[:5] == (event.session_id, "c1", "p1", "u1", 1)
        assert callback.deadline_at == event.deadline_at
        assert callback.deadline_at - callback.called_at == timedelta(seconds=600)
        assert began <= callback.called_at <= event.occurred_at


async def test_an_accepted_message_is_not_called_again_when_the_offsets_are_lost(
    bootstrap: str, postgres_url: str
) -> None:
    sessions = [SessionEvents(conversation=f"c{n % 5}") for n in range(20)]
    async with webhook_server(acknowledge) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"), callbackSeconds=600.0)
        async with dispatcher(bootstrap, postgres_url, **CONFIGURED):
            await publish_events(bootstrap, [session.sent() for session in sessions])
            await until_all_committed(bootstrap)
        await rewind(bootstrap)
        async with dispatcher(bootstrap, postgres_url, **CONFIGURED) as running:
            await until_all_committed(bootstrap)
            assert await running.metric('chat_dispatcher_finished_messages_total{end="known"}') == 20
    assert len(webhook.calls) == 20
    assert len(await results(bootstrap)) == 20


async def test_the_deadline_is_never_beyond_the_sessions_own_timeout(bootstrap: str, postgres_url: str) -> None:
    session = SessionEvents()
    async with webhook_server(acknowledge) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"), callbackSeconds=86_400.0)
        async with dispatcher(bootstrap, postgres_url, chat_session_timeout_hours=2, **CONFIGURED):
            await publish_events(bootstrap, [session.sent()])
            await until_all_committed(bootstrap)
    callback = callback_of(webhook.calls[0])
    assert callback.deadline_at - callback.called_at == timedelta(hours=2)


async def test_a_failing_call_is_judged_as_any_other_and_keeps_its_secrets(bootstrap: str, postgres_url: str) -> None:
    session = SessionEvents()
    auth = Fernet(KEY).encrypt(json.dumps({"type": "header", "name": "x-key", "value": "the-key"}).encode())
    async with webhook_server(refuse) as webhook, dispatcher(bootstrap, postgres_url, **CONFIGURED):
        await add_persona(postgres_url, "p1", webhook.url("p1"), callbackSeconds=600.0, auth=auth)
        await publish_events(bootstrap, [session.sent()])
        failed = await ended(bootstrap, session.session_id)
    assert isinstance(failed, WebhookFailed)
    assert failed.failure_kind is FailureKind.HTTP_4XX
    assert "No room for [hidden] at https://chat.example.com/n8n/api/callbacks/[hidden]" in failed.error_message
    told = failed.model_dump_json()
    assert "the-key" not in told
    assert token_of(webhook.calls[0].body["callbackUrl"]).rstrip("=") not in told


async def test_without_an_address_for_callbacks_the_session_fails_at_once_and_says_why(
    bootstrap: str, postgres_url: str
) -> None:
    session = SessionEvents()
    async with webhook_server(acknowledge) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), callbackSeconds=600.0)
        await publish_events(bootstrap, [session.sent()])
        failed = await ended(bootstrap, session.session_id)
        assert len(await results_of(bootstrap, session.session_id)) == 1
    assert isinstance(failed, WebhookFailed)
    assert "CALLBACK_BASE_URL" in failed.error_message
    assert webhook.calls == []


async def test_a_persona_that_replies_at_once_is_told_no_callback_url(bootstrap: str, postgres_url: str) -> None:
    session = SessionEvents()
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url, **CONFIGURED):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [session.sent()])
        await ended(bootstrap, session.session_id)
    assert "callback" not in json.dumps([webhook.calls[0].body, webhook.calls[0].headers]).lower()
