"""Executions of cancelled sessions are stopped in n8n, where they are known and the persona has a key for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from services.contracts import AttemptOutcome, CancelRequested
from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.database.engine import build_engine
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.webhook_dispatcher import stops as stops_module
from tests.integration.dispatching import Dispatcher, add_persona, dispatcher, results_of, until_all_committed
from tests.integration.tracker_process import publish_events, until
from tests.integration.webhook_server import Call, http, webhook_server
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker

KEY = Fernet.generate_key()
SECRET = Fernet(KEY).encrypt(json.dumps("the-key").encode())


@dataclass
class Api:
    """An n8n that notes what is asked of it, as request line and key."""

    status: int = 200
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        self.asked.append((head.splitlines()[0], headers["x-n8n-api-key"]))
        writer.write(f"HTTP/1.1 {self.status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def n8n_api(status: int = 200) -> AsyncIterator[Api]:
    api = Api(status)
    server = await asyncio.start_server(api.connected, "127.0.0.1", 0)
    async with server:
        api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1"
        yield api


async def cancelled(database_url: str, *, execution_id: str | None = "4711", **persona: object) -> CancelRequested:
    """A session as the tracker holds it once it is cancelled, of a persona with a key unless told otherwise."""
    name = f"p-{new_id()}"
    await add_persona(database_url, name, "http://127.0.0.1:1/webhook/x", **{"n8nApiKey": SECRET, **persona})
    session = SessionEvents(persona=name)
    sent = session.sent()
    accepted = session.attempted(outcome=AttemptOutcome.ACCEPTED, failure_kind=None, execution_id=execution_id)
    request = session.cancelled()
    await tracked(database_url, [sent, accepted, request])
    return request


async def tracked(database_url: str, events: Sequence[TrackedEvent]) -> None:
    """Fold the events of one session as the tracker does."""
    engine = build_engine(database_url)
    await Months(engine).ensure(events[0].session_id)
    await SessionStore(engine).fold([Arrival(e, e.occurred_at, 0, n) for n, e in enumerate(events)], {})
    await engine.dispose()


async def until_told(running: Dispatcher, outcome: str, times: int = 1) -> None:
    async def told() -> bool:
        return await running.metric(f'chat_webhook_execution_stops_total{{outcome="{outcome}"}}') >= times

    await until(told, f"a stop was told as {outcome}")


async def test_the_execution_of_a_cancelled_session_is_stopped(
    bootstrap: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stops_module, "LOOK_SECONDS", 0.05)
    configured = {"persona_secrets_key": SecretStr(KEY.decode())}
    async with n8n_api() as api, n8n_api(401) as refusing, dispatcher(bootstrap, postgres_url, **configured) as running:
        await running.until_ready()
        old = await cancelled(postgres_url, n8nApiUrl=api.url)
        requests = [
            old.model_copy(update={"occurred_at": datetime.now(UTC) - timedelta(minutes=2)}),
            await cancelled(postgres_url, n8nApiUrl=None),
            await cancelled(postgres_url, n8nApiUrl=api.url, execution_id=None),
            await cancelled(postgres_url, n8nApiUrl=refusing.url),
            await cancelled(postgres_url, n8nApiUrl=api.url, execution_id="47/../11"),
        ]
        await publish_events(bootstrap, requests)
        for outcome in ("stopped", "unknown", "failed"):
            await until_told(running, outcome)
    assert api.asked == [("POST /api/v1/executions/47%2F..%2F11/stop HTTP/1.1", "the-key")]
    assert refusing.asked == [("POST /api/v1/executions/4711/stop HTTP/1.1", "the-key")]


async def test_the_execution_that_an_acknowledgement_names_is_stopped(bootstrap: str, postgres_url: str) -> None:
    by_field, _ = sessions = [SessionEvents(), SessionEvents()]

    async def acknowledge(call: Call) -> bytes:
        if call.session_id == by_field.session_id:
            return http({"message": "Workflow was started", "executionId": "231"})
        return http(b"", x_n8n_execution_id="232")

    configured = {"callback_base_url": "https://chat.example.com", "persona_secrets_key": SecretStr(KEY.decode())}
    async with (
        n8n_api() as api,
        webhook_server(acknowledge) as webhook,
        dispatcher(bootstrap, postgres_url, **configured) as running,
    ):
        url = webhook.url("p1")
        await add_persona(postgres_url, "p1", url, callbackSeconds=600.0, n8nApiKey=SECRET, n8nApiUrl=api.url)
        messages = [session.sent() for session in sessions]
        await publish_events(bootstrap, messages)
        await until_all_committed(bootstrap)
        for session, message in zip(sessions, messages, strict=True):
            accepted = await results_of(bootstrap, session.session_id)
            request = session.cancelled(at=datetime.now(UTC))
            await tracked(postgres_url, [message, *accepted, request])
            await publish_events(bootstrap, [request])
        await until_told(running, "stopped", 2)
    asked = {f"POST /api/v1/executions/{execution}/stop HTTP/1.1" for execution in ("231", "232")}
    assert {line for line, _ in api.asked} == asked


async def test_the_egress_rules_hold_for_the_api_and_a_lost_key_is_told(
    bootstrap: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    rules = {"egress_allow_cidrs": "", "persona_secrets_key": SecretStr(Fernet.generate_key().decode())}
    async with n8n_api() as api, dispatcher(bootstrap, postgres_url, **rules) as running:
        await publish_events(bootstrap, [await cancelled(postgres_url, n8nApiUrl=api.url)])
        await until_told(running, "failed")
    assert "cannot be decrypted" in caplog.text
    caplog.clear()
    rules["persona_secrets_key"] = SecretStr(KEY.decode())
    async with n8n_api() as api, dispatcher(bootstrap, postgres_url, **rules) as running:
        await publish_events(bootstrap, [await cancelled(postgres_url, n8nApiUrl=api.url)])
        await until_told(running, "failed")
    assert "AddressRefused" in caplog.text
    assert "the-key" not in caplog.text
    assert api.asked == []
