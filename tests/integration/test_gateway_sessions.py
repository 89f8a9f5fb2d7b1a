"""Reading a session, and waiting for what becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import insert

from services.api_gateway.answer_models import SessionDetail
from services.contracts import SessionChanged, SessionStatus, encode, new_id
from services.contracts.ids import id_time
from services.database.tables import messages, session_events
from services.runtime.kafka import build_producer, publish
from services.runtime.settings import KafkaSettings
from tests.integration.gateway import (
    ADA,
    BOB,
    LONG_AGO,
    ROOT,
    Gateway,
    old_id,
    ready,
    running_gateway,
    until_waiters,
)
from tests.patience import PATIENT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(broker, module_postgres_url) as gateway:
        await ready(gateway)
        yield gateway


async def test_a_session_is_told_with_its_messages_and_timeline(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id(), metadata={"n": 10**30}, attempts=1)
    started = id_time(session_id)
    await gateway.end_session(
        session_id, SessionStatus.COMPLETED, ended_at=started + timedelta(milliseconds=1250), response_ms=1250
    )
    said = {"chat_session_id": session_id, "created_at": started}
    behind = {**said, "created_at": started - timedelta(seconds=1)}  # by the dispatcher's clock
    await gateway.execute(insert(messages).values(id=new_id(), role="user", content="hello", **said))
    await gateway.execute(insert(messages).values(id=new_id(), role="persona", content="hi", **behind))
    for number, (kind, body) in enumerate(
        [("MessageSent", {"message": "hello", "userId": "ada"}), ("WebhookSucceeded", {"reply": "hi", "attempt": 1})]
    ):
        at = started + timedelta(seconds=number)
        event = {"session_id": session_id, "event_id": new_id(), "type": kind, "body": body}
        await gateway.execute(insert(session_events).values(occurred_at=at, recorded_at=at, **event))
    answer = await gateway.get(f"/api/chat-sessions/{session_id}")
    assert answer.status_code == 200
    body = answer.json()
    SessionDetail.model_validate(body)
    assert body["id"] == body["sessionId"] == str(session_id)
    assert (body["status"], body["durationMs"], body["responseMs"]) == ("COMPLETED", 1250, 1250)
    assert body["metadata"] == {"n": 10**30}
    assert [(m["role"], m["content"]) for m in body["messages"]] == [("user", "hello"), ("persona", "hi")]
    assert [(t["type"], t["late"]) for t in body["timeline"]] == [("MessageSent", False), ("WebhookSucceeded", False)]
    assert body["timeline"][1] == {"type": "WebhookSucceeded", "at": body["timeline"][1]["at"], "late": False} | {
        "attempt": 1
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_active_session_lasts_until_now(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id())
    answer = await gateway.get(f"/api/chat-sessions/{session_id}")
    assert answer.json()["durationMs"] >= LONG_AGO.total_seconds() * 1000


async def test_someone_elses_session_is_as_unknown_as_none(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id(), user_id="bob")
    path = f"/api/chat-sessions/{session_id}"
    theirs, none = await gateway.get(path), await gateway.get(f"/api/chat-sessions/{old_id()}")
    assert theirs.status_code == 404
    assert theirs.json() | {"traceId": ""} == none.json() | {"traceId": ""}
    assert (await gateway.http.patch(f"{path}/cancel", headers=ADA)).status_code == 404
    assert (await gateway.get(path, BOB)).status_code == 200
    assert (await gateway.get(path, ROOT)).status_code == 200


async def test_an_id_that_no_session_can_have_is_404_at_once(gateway: Gateway) -> None:
    await gateway.folded(datetime(2020, 1, 1, tzinfo=UTC))
    long_past, far_ahead = "00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff"
    for session_id in ("nonsense", str(uuid4()), long_past, far_ahead):
        answer = await gateway.get(f"/api/chat-sessions/{session_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-session"), session_id


async def test_a_fresh_unknown_session_is_waited_for(gateway: Gateway) -> None:
    session_id = new_id()
    await gateway.folded(id_time(session_id) - timedelta(seconds=1))
    reading = asyncio.create_task(gateway.get(f"/api/chat-sessions/{session_id}"))
    await until_waiters(gateway, 1)
    await gateway.add_session(session_id)
    assert (await reading).status_code == 200


async def test_a_fresh_unknown_session_is_503_until_folding_has_passed_it(gateway: Gateway) -> None:
    session_id = new_id()
    await gateway.folded(id_time(session_id) - timedelta(seconds=1))
    for answer in await asyncio.gather(
        gateway.get(f"/api/chat-sessions/{session_id}"),
        gateway.http.patch(f"/api/chat-sessions/{session_id}/cancel", headers=ADA),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "not-yet-tracked")
        assert answer.headers["retry-after"] == "1"
    await gateway.folded(datetime.now(UTC) + timedelta(minutes=1))
    assert (await gateway.get(f"/api/chat-sessions/{session_id}")).status_code == 404


async def test_a_wait_ends_with_the_session(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    reading = asyncio.create_task(gateway.get(f"/api/chat-sessions/{session_id}", wait=20))
    await until_waiters(gateway, 1)
    await gateway.end_session(session_id, SessionStatus.FAILED, failure_kind="http-5xx")
    answer = await reading
    assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
    over = await gateway.get(f"/api/chat-sessions/{await gateway.add_session()}", wait=0.2)
    assert (over.status_code, over.json()["status"]) == (200, "ACTIVE")


async def test_a_session_change_wakes_who_waits(gateway: Gateway, broker: str) -> None:
    session_id = await gateway.add_session()
    with gateway.changes.waiter(session_id) as waiter:
        napping = asyncio.create_task(waiter.nap(60))
        async with asyncio.timeout(PATIENT_SECONDS):
            # The gateway reads from the end, so what is told before it has begun to read is not seen.
            while not napping.done():
                await tell_changed(broker, session_id)
                await asyncio.wait([napping], timeout=0.2)


async def test_sessions_can_be_turned_off_while_messages_are_sent(broker: str, postgres_url: str) -> None:
    async with running_gateway(broker, postgres_url, enable_chat_sessions=False) as gateway:
        await ready(gateway)
        session_id = await gateway.add_session(old_id())
        calls = [
            ("GET", "/api/chat-sessions"),
            ("GET", f"/api/chat-sessions/{session_id}"),
            ("GET", f"/api/chat-sessions/{session_id}/events"),
            ("PATCH", f"/api/chat-sessions/{session_id}/cancel"),
            ("POST", f"/api/chat-sessions/{session_id}/retry"),
            ("GET", "/api/chat-sessions/stats"),
            ("POST", "/api/chat-sessions/cleanup"),
            ("POST", "/api/chat-sessions/bulk"),
            ("GET", "/api/conversations/c-1/chat-sessions"),
        ]
        for method, path in calls:
            answer = await gateway.http.request(method, path, headers=ROOT)
            assert (answer.status_code, answer.json()["code"]) == (503, "sessions-disabled"), path
        assert (await gateway.send("c-off", wait=0.1)).status_code == 202


async def tell_changed(broker: str, session_id: UUID) -> None:
    """Publish what the tracker tells after its commit."""
    now = datetime.now(UTC)
    event = SessionChanged(
        event_id=new_id(), occurred_at=now, session_id=session_id, conversation_id="c-1", persona_id="echo",
        user_id="ada", version=2, status=SessionStatus.COMPLETED, previous_status=SessionStatus.ACTIVE,
        started_at=id_time(session_id), ended_at=now, last_activity_at=now, metadata={}, error_message=None,
        failure_kind=None, attempts=1, response_ms=1, resumed_from=None, template_id=None, deadline_at=None,
    )  # fmt: skip
    producer = build_producer(KafkaSettings(kafka_bootstrap_servers=broker, kafka_idempotence=False))
    await producer.start()
    await publish(producer, encode(event, source="/tests"))
    await producer.stop()
