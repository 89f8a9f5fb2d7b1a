"""Sending a session's message again: for whom, when, and as what."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert, update

from services.api_gateway.answer_models import Accepted, EndedSession
from services.contracts import MessageSent, SessionStatus, new_id
from services.contracts.ids import id_time
from services.contracts.topics import MESSAGES
from services.database.tables import audit_log, messages
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, old_id, ready, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("status", [SessionStatus.FAILED, SessionStatus.TIMEOUT, SessionStatus.CANCELLED])
async def test_a_retry_is_a_new_session_with_all_that_the_old_one_had(gateway: Gateway, status: SessionStatus) -> None:
    old = await add_ended(gateway, status, conversation_id="c-again", metadata={"k": [1]}, template_id="t-1")
    async with gateway.log_of(MESSAGES, "c-again") as log:
        answer = await retry(gateway, old)
        event = await log.next()
    assert answer.status_code == 202
    Accepted.model_validate(answer.json())
    assert isinstance(event, MessageSent)
    assert str(event.session_id) == answer.json()["sessionId"] != str(old)
    assert answer.headers["location"] == f"/api/chat-sessions/{event.session_id}"
    assert (event.resumed_from, event.user_id, event.persona_id) == (old, "ada", "echo")
    assert (event.message, event.metadata, event.template_id) == ("hello again", {"k": [1]}, "t-1")


async def test_what_needs_no_retry_or_can_have_none_is_409_with_the_session(gateway: Gateway) -> None:
    erased = await add_ended(gateway, SessionStatus.FAILED)
    await gateway.execute(update(messages).values(content=None))
    untold = await add_ended(gateway, SessionStatus.FAILED, said=None)
    completed = await add_ended(gateway, SessionStatus.COMPLETED)
    active = await gateway.add_session(old_id())
    codes = {active: "not-retryable", completed: "not-retryable", erased: "no-message", untold: "no-message"}
    for session_id, code in codes.items():
        answer = await retry(gateway, session_id)
        assert (answer.status_code, answer.json()["code"]) == (409, code)
        assert answer.json()["session"]["sessionId"] == str(session_id)
        assert "message" not in answer.json()["session"]


async def test_a_repeated_key_is_the_same_new_session(gateway: Gateway) -> None:
    old, other = [await add_ended(gateway, SessionStatus.FAILED, conversation_id="c-keyed") for _ in range(2)]
    async with gateway.log_of(MESSAGES, "c-keyed") as log:
        answers = [await retry(gateway, old, {**ADA, "idempotency-key": "k"}) for _ in range(2)]
        await log.next()
        assert await log.is_silent()
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        for session_id, body in ((old, b"{}"), (other, b"")):
            reused = await retry(gateway, session_id, {**ADA, "idempotency-key": "k"}, content=body)
            assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
        assert (await retry(gateway, old)).json()["sessionId"] != answers[0].json()["sessionId"]
        await log.next()


async def test_an_admins_retry_is_its_users_and_audited(gateway: Gateway) -> None:
    old = await add_ended(gateway, SessionStatus.TIMEOUT, conversation_id="c-root")
    assert (await retry(gateway, old, BOB)).json()["code"] == "no-such-session"
    async with gateway.log_of(MESSAGES, "c-root") as log:
        answer = await retry(gateway, old, ROOT)
        event = await log.next()
        assert await log.is_silent()
    assert answer.status_code == 202
    assert isinstance(event, MessageSent)
    assert event.user_id == "ada"
    [entry] = [entry for entry in await gateway.rows(audit_log) if entry.action == "session.retry"]
    assert (entry.actor, entry.target) == ("root", str(old))


async def test_a_wait_answers_200_with_the_new_sessions_end(gateway: Gateway) -> None:
    old = await add_ended(gateway, SessionStatus.CANCELLED, conversation_id="c-wait")
    async with gateway.log_of(MESSAGES, "c-wait") as log:
        retrying = asyncio.create_task(retry(gateway, old, wait=20))
        event = await log.next()
    assert isinstance(event, MessageSent)
    await gateway.add_session(event.session_id, resumed_from=old)
    await gateway.end_session(event.session_id, SessionStatus.COMPLETED, response_ms=12)
    answer = await retrying
    EndedSession.model_validate(answer.json())
    assert (answer.status_code, answer.json()["resumedFrom"]) == (200, str(old))


async def test_a_wrong_retry_is_refused(gateway: Gateway) -> None:
    old = await add_ended(gateway, SessionStatus.FAILED)
    for body, field in ((b'{"message": "other"}', "message"), (b"[]", "body"), (b"no", "body")):
        answer = await retry(gateway, old, content=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    for unknown in (old_id(), "nonsense"):
        assert (await gateway.http.post(f"/api/chat-sessions/{unknown}/retry", headers=ADA)).status_code == 404


async def test_retries_count_as_messages(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, rate_limit_messages=1) as gateway:
        await ready(gateway)
        old = await add_ended(gateway, SessionStatus.FAILED)
        assert [(await retry(gateway, old)).status_code for _ in range(2)] == [202, 429]


async def add_ended(
    gateway: Gateway, status: SessionStatus, *, said: str | None = "hello again", **columns: Any
) -> UUID:
    """Write a session that has ended, with what its user said, as the tracker would."""
    session_id = await gateway.add_session(old_id(), **columns)
    await gateway.end_session(session_id, status)
    if said is not None:
        row = {"id": new_id(), "chat_session_id": session_id, "role": "user", "created_at": id_time(session_id)}
        await gateway.execute(insert(messages).values(**row, content=said))
    return session_id


async def retry(
    gateway: Gateway,
    session_id: UUID,
    headers: dict[str, str] = ADA,
    *,
    content: bytes = b"",
    wait: float | None = None,
) -> httpx.Response:
    path = f"/api/chat-sessions/{session_id}/retry" + (f"?wait={wait}" if wait is not None else "")
    return await gateway.http.post(path, headers=headers, content=content)
