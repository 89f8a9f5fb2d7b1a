"""Where the dispatcher learns how to call, and what it does while PostgreSQL or a webhook is away."""

import asyncio
import base64
import hashlib
import json
from pathlib import Path

import jwt
import pytest
from cryptography.fernet import Fernet
from standardwebhooks.webhooks import Webhook

from services.contracts import FailureKind, WebhookAttempted, WebhookFailed, WebhookSucceeded
from services.database.migrate import migrate
from services.local.postgres import start_postgres
from services.local.reaper import Reaper
from services.webhook_dispatcher import personas
from services.webhook_dispatcher.breaker import FAILURES
from tests.integration.dispatching import (
    add_persona,
    dispatcher,
    ended,
    results_of,
    until_ended,
)
from tests.integration.kafka_log import eventually
from tests.integration.tracker_process import connected, publish_events, until
from tests.integration.webhook_server import Call, echo, http, webhook_server
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker

SIGNING_KEYS = ["whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]


async def test_a_persona_that_does_not_exist(bootstrap: str, postgres_url: str) -> None:
    sent = SessionEvents(persona="no 'body'\n").sent()
    async with dispatcher(bootstrap, postgres_url) as running:
        await publish_events(bootstrap, [sent])
        told = await ended(bootstrap, sent.session_id)
        line = 'chat_webhook_attempts_total{outcome="unknown-persona",persona="(unknown)"}'
        assert await running.metric(line) == 1
    assert isinstance(told, WebhookFailed)
    assert told.failure_kind is FailureKind.UNKNOWN_PERSONA
    assert told.error_message.startswith("There is no persona \"no 'body'\\n\": correct the personaId, or create")


async def test_a_persona_made_after_it_was_asked_for_is_found(bootstrap: str, postgres_url: str) -> None:
    before, after = SessionEvents(), SessionEvents()
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url):
        await publish_events(bootstrap, [before.sent()])
        assert isinstance(await ended(bootstrap, before.session_id), WebhookFailed)
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [after.sent()])
        assert isinstance(await ended(bootstrap, after.session_id), WebhookSucceeded)


async def test_a_changed_persona_is_noticed_within_seconds(bootstrap: str, postgres_url: str) -> None:
    async with webhook_server() as old, webhook_server() as new, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", old.url("p1"))
        first = SessionEvents().sent()
        await publish_events(bootstrap, [first])
        await ended(bootstrap, first.session_id)
        await add_persona(postgres_url, "p1", new.url("p1"))

        async def noticed() -> bool:
            sent = SessionEvents().sent()
            await publish_events(bootstrap, [sent])
            await ended(bootstrap, sent.session_id)
            return bool(new.calls)

        await until(noticed, "the new address was called", seconds=8)
        calls = len(old.calls)
        assert await noticed()
        assert len(old.calls) == calls


async def test_credentials_are_decrypted_with_the_gateways_key(bootstrap: str, postgres_url: str) -> None:
    key = Fernet.generate_key()

    def encrypted(auth: dict[str, str], with_key: bytes = key) -> bytes:
        return Fernet(with_key).encrypt(json.dumps(auth).encode())

    basic = encrypted({"type": "basic", "username": "anna", "password": "päss:word"})
    header = encrypted({"type": "header", "name": "X-Key", "value": "s3cret"})
    token = encrypted({"type": "jwt", "secret": "s3cret" * 8, "algorithm": "HS256"})
    signing_keys = Fernet(key).encrypt(json.dumps(SIGNING_KEYS).encode())
    foreign = encrypted({"type": "header", "name": "X-Key", "value": "s3cret"}, Fernet.generate_key())
    sent = [SessionEvents(persona=name, conversation=name).sent() for name in ("basic", "header", "jwt", "foreign")]
    async with (
        webhook_server() as webhook,
        dispatcher(bootstrap, postgres_url, persona_secrets_key=key.decode()),
    ):
        for name, auth in (("basic", basic), ("header", header), ("jwt", token), ("foreign", foreign)):
            await add_persona(postgres_url, name, webhook.url(name), auth=auth, signingKeys=signing_keys)
        await publish_events(bootstrap, sent)
        await until_ended(bootstrap, 4)
        told = await ended(bootstrap, sent[3].session_id)
    headers = {call.path.rpartition("/")[2]: call.headers for call in webhook.calls}
    assert headers.keys() == {"basic", "header", "jwt"}
    scheme, _, credentials = headers["basic"]["authorization"].partition(" ")
    assert (scheme, base64.b64decode(credentials).decode()) == ("Basic", "anna:päss:word")
    assert headers["header"]["x-key"] == "s3cret"
    claims = jwt.decode(headers["jwt"]["authorization"].removeprefix("Bearer "), "s3cret" * 8, algorithms=["HS256"])
    assert claims["sub"] == sent[2].user_id
    for called in webhook.calls:
        assert called.headers["webhook-id"] == called.body["sessionId"]
        for signing_key in SIGNING_KEYS:
            assert Webhook(signing_key).verify(called.raw, called.headers) == called.body
    [jwt_call] = [called for called in webhook.calls if called.path.endswith("jwt")]
    assert claims["bodySha256"] == hashlib.sha256(jwt_call.raw).hexdigest()
    assert isinstance(told, WebhookFailed)
    assert told.failure_kind is FailureKind.UNAUTHORIZED
    assert "PERSONA_SECRETS_KEY" in told.error_message
    assert "s3cret" not in told.error_message


async def test_an_attempt_tells_its_times_its_execution_and_no_secret(bootstrap: str, postgres_url: str) -> None:
    key = Fernet.generate_key()
    auth = Fernet(key).encrypt(json.dumps({"type": "header", "name": "X-Key", "value": "s3cret"}).encode())
    sent = SessionEvents().sent()

    async def answer(call: Call) -> bytes:
        said = f"What is {call.headers['x-key']}?"
        return http({"message": said, "executionId": 40 + call.number}, status=503 if call.number == 1 else 500)

    async with (
        webhook_server(answer) as webhook,
        dispatcher(bootstrap, postgres_url, persona_secrets_key=key.decode()),
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"), auth=auth)
        await publish_events(bootstrap, [sent])
        await ended(bootstrap, sent.session_id)
    told = await results_of(bootstrap, sent.session_id)
    assert [type(event) for event in told] == [WebhookAttempted, WebhookFailed]
    assert [event.execution_id for event in told] == ["41", "42"]
    for event in told:
        assert isinstance(event, WebhookAttempted | WebhookFailed)
        assert event.connect_ms is not None
        assert event.first_byte_ms is not None
        assert event.connect_ms <= event.first_byte_ms <= event.duration_ms
        assert event.response_body is not None
        assert "What is [hidden]?" in event.response_body
        assert "s3cret" not in event.model_dump_json()


async def test_while_postgres_is_away_the_known_serve_and_the_unknown_wait(
    bootstrap: str, session_directory: Path, tmp_path: Path, reaper: Reaper
) -> None:
    directory = session_directory / tmp_path.name
    directory.mkdir(mode=0o711)
    postgres = start_postgres(directory, tmp_path / "postgres.log", reaper, {"fsync": "off"})
    url = postgres.url()
    await migrate(url)
    known, later, unknown = SessionEvents(), SessionEvents(), SessionEvents(persona="p2", conversation="c2")
    async with webhook_server() as webhook, dispatcher(bootstrap, url) as running:
        for persona in ("p1", "p2"):
            await add_persona(url, persona, webhook.url(persona))
        await publish_events(bootstrap, [known.sent()])
        await ended(bootstrap, known.session_id)
        postgres.stop()
        await publish_events(bootstrap, [unknown.sent(), later.sent()])
        assert isinstance(await ended(bootstrap, later.session_id), WebhookSucceeded)

        async def told() -> bool:
            return (await running.problems() or {}).keys() == {"personas"}

        await until(told, "readiness told that personas cannot be read")
        assert await results_of(bootstrap, unknown.session_id) == []
        postgres = start_postgres(directory, tmp_path / "postgres.log", reaper, {"fsync": "off"})
        assert isinstance(await ended(bootstrap, unknown.session_id), WebhookSucceeded)
        await running.until_ready()
    postgres.stop()


async def test_a_postgres_that_does_not_answer_is_away_as_well(
    bootstrap: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personas, "LOOK_UP_SECONDS", 0.5)
    sent = SessionEvents().sent()
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url) as running:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await running.until_ready()
        async with connected(postgres_url) as rows, rows.transaction():
            await rows.execute("LOCK personas")
            await publish_events(bootstrap, [sent])

            async def told() -> bool:
                return (await running.problems() or {}).keys() == {"personas"}

            await until(told, "readiness told that personas cannot be read")
        assert isinstance(await ended(bootstrap, sent.session_id), WebhookSucceeded)


async def test_an_address_that_turns_private_is_refused_when_it_is_called(bootstrap: str, postgres_url: str) -> None:
    sent = SessionEvents().sent()
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url, egress_allow_cidrs=""):
        await add_persona(postgres_url, "p1", webhook.url("p1", host="localhost"))
        await publish_events(bootstrap, [sent])
        told = await ended(bootstrap, sent.session_id)
    assert isinstance(told, WebhookFailed)
    assert told.failure_kind is FailureKind.ADDRESS_REFUSED
    assert webhook.calls == []


async def test_a_webhook_that_is_not_well_is_left_alone_and_probed(bootstrap: str, postgres_url: str) -> None:
    well = False

    async def answer(call: Call) -> bytes:
        return await echo(call) if well else http(b"down", status=502)

    sick = [SessionEvents(conversation=f"c{n}").sent() for n in range(FAILURES)]
    waiting = [SessionEvents(conversation=f"d{n}").sent() for n in range(20)]
    other = SessionEvents(persona="p2", conversation="e").sent()
    breaker = 'chat_webhook_breaker_state{persona="p1"}'
    async with (
        webhook_server(answer) as webhook,
        webhook_server() as healthy,
        dispatcher(bootstrap, postgres_url) as running,
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await add_persona(postgres_url, "p2", healthy.url("p2"))
        await publish_events(bootstrap, sick)
        await until_ended(bootstrap, FAILURES)
        assert await running.metric(breaker) == 2
        await publish_events(bootstrap, [*waiting, other])
        await ended(bootstrap, other.session_id)
        assert len(webhook.calls) == FAILURES
        await eventually(lambda: len(webhook.calls) == FAILURES + 1, "one probe was made")
        probed = webhook.calls[-1].session_id
        assert isinstance(await ended(bootstrap, probed), WebhookFailed)
        well = True
        told = await until_ended(bootstrap, FAILURES + 21)
        assert await running.metric(breaker) == 0
    # While it waited for the probe nothing was called, and it cost no attempt.
    assert len(webhook.calls) == FAILURES + 20
    replied = [event for event in told if isinstance(event, WebhookSucceeded) and event.persona_id == "p1"]
    assert [event.attempt for event in replied] == [1] * 19


async def test_a_breaker_that_stays_open_ends_messages_at_their_deadline(bootstrap: str, postgres_url: str) -> None:
    async def answer(call: Call) -> bytes:
        return http(b"down", status=504)

    sick = [SessionEvents(conversation=f"c{n}").sent() for n in range(FAILURES)]
    late = SessionEvents(conversation="late").sent()
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), deadlineSeconds=1.0)
        await publish_events(bootstrap, sick)
        await until_ended(bootstrap, FAILURES)
        await publish_events(bootstrap, [late])
        told = await ended(bootstrap, late.session_id)
    assert isinstance(told, WebhookFailed)
    # It says what the webhook suffers from, and that this message was not sent to it.
    assert told.failure_kind is FailureKind.TIMEOUT
    assert "not well" in told.error_message
    assert webhook.calls_of(late.session_id) == 0


async def test_the_slots_bound_the_calls_that_run(bootstrap: str, postgres_url: str) -> None:
    running_now, most = 0, 0

    async def answer(call: Call) -> bytes:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.1)
        running_now -= 1
        return await echo(call)

    sent = [SessionEvents(conversation=f"c{n}").sent() for n in range(150)]
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url, dispatcher_max_calls=5):
        await add_persona(postgres_url, "p1", webhook.url("p1"), deadlineSeconds=2.0)
        await publish_events(bootstrap, sent)
        told = await until_ended(bootstrap, 150)
    assert most == 5
    # Waiting for a slot costs nothing of the deadline.
    assert [event for event in told if not isinstance(event, WebhookSucceeded)] == []
