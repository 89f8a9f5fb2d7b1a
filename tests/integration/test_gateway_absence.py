"""What the gateway answers while Kafka or PostgreSQL is away, and how it stops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from httpx import Response
from sqlalchemy import text, update

from services.api_gateway import database as database_module
from services.api_gateway import parts
from services.api_gateway.conversations import CLAIM_SECONDS
from services.api_gateway.database import LENT_AT_ONCE
from services.contracts import MessageSent
from services.contracts.topics import MESSAGES, TOPICS
from services.database.migrate import migrate
from services.database.tables import chat_sessions, conversations, idempotency_keys
from services.local.broker import start_broker
from services.local.postgres import start_postgres
from services.local.processes import free_port
from services.local.reaper import Reaper
from services.runtime.topics import TopicsNotCreated
from tests.engine import admin_of
from tests.freezing import standing_still
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, make_topics, ready, running_gateway, until, until_waiters
from tests.patience import PATIENT_SECONDS

ON_EMBEDDED = {"kafka_idempotence": False}
"""For a gateway whose broker is the embedded one, whatever the other tests run on."""


@pytest.fixture
async def gateway(broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(broker, postgres_url) as running:
        await ready(running)
        yield running


async def test_a_message_that_kafka_does_not_acknowledge_is_503_with_its_session(
    session_directory: Path, reaper: Reaper, postgres_url: str
) -> None:
    port = free_port()
    broker = start_broker(port, session_directory / "dying-broker.log", reaper)
    async with running_gateway(broker.bootstrap, postgres_url, **ON_EMBEDDED) as gateway:
        await ready(gateway)
        broker.process.popen.kill()
        broker.process.popen.wait(10)
        began = asyncio.get_running_loop().time()
        headers = {**ADA, "idempotency-key": "k-1"}
        answer = await gateway.send("c-1", headers)
        assert asyncio.get_running_loop().time() - began < 20
        assert (answer.status_code, answer.json()["code"]) == (503, "not-acknowledged")
        assert "unknown" in answer.json()["detail"]
        [key] = await gateway.rows(idempotency_keys)
        assert (str(key.sessionId), key.publishedAt) == (answer.json()["sessionId"], None)
        assert len(await gateway.rows(conversations)) == 1
        assert await gateway.rows(chat_sessions) == []
        await until(lambda: gateway.http.get("/health/ready"), lambda answer: answer.status_code == 503)

        with risen_broker(port, session_directory, reaper) as again:
            await make_topics_before_the_gateway_does(again)
            await ready(gateway)
            await gateway.execute(update(idempotency_keys).values(sent_at=datetime.now(UTC) - timedelta(seconds=6)))
            repeated = await until(lambda: gateway.send("c-1", headers), lambda answer: answer.status_code != 503)
            assert (repeated.status_code, repeated.json()["sessionId"]) == (202, answer.json()["sessionId"])


@contextmanager
def risen_broker(port: int, directory: Path, reaper: Reaper) -> Iterator[str]:
    """The bootstrap address of an embedded broker where another one was."""
    again = start_broker(port, directory / "risen-broker.log", reaper)
    try:
        yield again.bootstrap
    finally:
        again.process.stop(0)  # it keeps nothing


async def make_topics_before_the_gateway_does(bootstrap: str) -> None:
    """Make the system's topics; those that a gateway's asking has made on the embedded broker are made anew."""
    async with admin_of(bootstrap) as client:
        while True:
            try:
                await make_topics(bootstrap)
            except TopicsNotCreated:
                await client.delete_topics([topic.name for topic in TOPICS])
            else:
                return


async def test_the_gateway_starts_before_kafka(session_directory: Path, reaper: Reaper, postgres_url: str) -> None:
    port = free_port()
    async with running_gateway(f"127.0.0.1:{port}", postgres_url, topics=False, **ON_EMBEDDED) as gateway:
        assert (await gateway.http.get("/health/live")).status_code == 200
        not_ready = await gateway.http.get("/health/ready")
        assert (not_ready.status_code, list(not_ready.json()["problems"])) == (503, ["kafka"])
        assert (await gateway.get("/api/chat-sessions")).status_code == 200
        broker = start_broker(port, session_directory / "late-broker.log", reaper)
        await make_topics(broker.bootstrap)
        await ready(gateway)
        assert (await gateway.send()).status_code == 202
    broker.process.stop(0)  # it keeps nothing


async def test_while_postgres_is_away_or_hangs_only_unkeyed_messages_pass(
    broker: str,
    session_directory: Path,
    reaper: Reaper,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database_module, "REACH_SECONDS", 1.0)
    monkeypatch.setattr(parts, "ANSWER_SECONDS", 1.5)
    caplog.set_level("INFO", database_module.__name__)
    directory = session_directory / "absent"
    directory.mkdir(mode=0o711)
    postgres = start_postgres(directory, directory / "postgres.log", reaper, {"fsync": "off"})
    await migrate(postgres.url())
    async with running_gateway(broker, postgres.url()) as gateway:
        await ready(gateway)
        assert (await gateway.send("c-owned", ADA)).status_code == 202
        await gateway.engine.dispose()
        postgres.stop()
        async with gateway.log_of(MESSAGES, "c-unknown") as log:
            assert (await gateway.send("c-unknown", BOB, wait=0.1)).status_code == 202
            assert isinstance(await log.next(), MessageSent)
        assert (await gateway.send("c-owned", ADA)).status_code == 202
        assert (await gateway.send("c-owned", BOB)).status_code == 404
        calls = [
            await gateway.send("c-owned", {**ADA, "idempotency-key": "k-1"}),
            await gateway.get("/api/chat-sessions"),
            await gateway.get("/api/chat-sessions/01976f3e-8a00-7cc3-98c4-dc0c0c07398f"),
            await gateway.get("/api/chat-sessions/stats"),
            await gateway.http.post("/api/chat-sessions/cleanup", headers=ROOT, json={}),
            await gateway.get("/api/personas", ROOT),
        ]
        for answer in calls:
            assert (answer.status_code, answer.json()["code"]) == (503, "database-away"), answer.request.url
            assert answer.headers["retry-after"] == "1"
        refused = await gateway.http.put("/api/personas/p", headers=ADA, json={})
        assert refused.status_code == 403, "a refusal needs no audit log to stand"
        assert (await gateway.http.get("/health/ready")).status_code == 200
        again = start_postgres(directory, directory / "postgres.log", reaper, {"fsync": "off"})
        assert (await gateway.get("/api/chat-sessions")).status_code == 200
        assert (await gateway.send("c-owned", ADA)).status_code == 202
        caplog.clear()
        with standing_still(again.process.pid):
            await nobody_waits_for_long(gateway)
            assert "postgresql" in (await gateway.http.get("/health/ready")).json()["notes"]
        await until(lambda: gateway.get("/api/chat-sessions"), lambda answer: answer.status_code == 200)
        assert "notes" not in (await gateway.http.get("/health/ready")).json()
        told = [line.levelname for line in caplog.records if line.name == database_module.__name__]
        assert told == ["WARNING", "INFO"]
    again.stop()


async def nobody_waits_for_long(gateway: Gateway) -> None:
    """PostgreSQL hangs: what is accepted is answered once its wait is over, all else soon."""
    clock = asyncio.get_running_loop().time
    began = clock()

    async def took(call: Awaitable[Response]) -> tuple[int, float]:
        answer = await call
        return answer.status_code, clock() - began

    session = "/api/chat-sessions/01976f3e-8a00-7cc3-98c4-dc0c0c07398f?wait=1"
    reads = [gateway.get("/api/chat-sessions") for _ in range(2 * LENT_AT_ONCE)]
    sent, new, *others = await asyncio.gather(
        took(gateway.send("c-owned", ADA, wait=1)),
        took(gateway.send("c-new", BOB, wait=1)),
        took(gateway.get(session)),
        took(gateway.send("c-owned", {**ADA, "idempotency-key": "k-2"}, wait=1)),
        *map(took, reads),
    )
    assert sent[0] == 202
    assert 1 <= sent[1] < 3, sent
    assert new[0] == 202
    assert new[1] < CLAIM_SECONDS + 2, new
    assert all(status == 503 and seconds < 5 for status, seconds in others), others


async def test_a_question_that_takes_too_long_is_not_to_be_asked_again(
    broker: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "STATEMENT_TIMEOUT_MS", 200)
    async with running_gateway(broker, postgres_url) as gateway, gateway.engine.begin() as other:
        await other.execute(text("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE"))
        answer = await gateway.get("/api/chat-sessions")
        assert (answer.status_code, answer.json()["code"]) == (503, "too-slow")
        assert "retry-after" not in answer.headers


async def test_who_waits_is_answered_when_the_gateway_stops(broker: str, postgres_url: str) -> None:
    async with running_gateway(broker, postgres_url) as gateway:
        await ready(gateway)
        waiting = asyncio.create_task(gateway.send("c-stop", wait=60))
        await until_waiters(gateway, 1)
        gateway.changes.stop()
        async with asyncio.timeout(PATIENT_SECONDS / 2):
            assert (await waiting).status_code == 202
