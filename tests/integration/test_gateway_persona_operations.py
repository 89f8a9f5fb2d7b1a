"""Trying a persona, and holding its messages back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import insert

from services.api_gateway.answer_models import Accepted, EndedSession, Persona
from services.contracts import MessageSent, SessionStatus, new_id
from services.contracts.topics import MESSAGES
from services.database.tables import audit_log, messages
from tests.integration.gateway import ADA, ROOT, Gateway, ready, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEBHOOK = {"webhookUrl": "https://192.0.2.1/webhook/x"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(any_broker, module_postgres_url, egress_allow_cidrs="192.0.2.0/24") as gateway:
        await ready(gateway)
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(gateway: Gateway) -> Gateway:
    """The gateway that all share, emptied, with a persona."""
    assert (await gateway.http.put("/api/personas/p", headers=ROOT, json=WEBHOOK)).status_code == 200
    return gateway


async def post(
    gateway: Gateway, path: str, headers: dict[str, str] = ROOT, body: Any = None, **query: Any
) -> httpx.Response:
    return await gateway.http.post(f"/api/personas/{path}", headers=headers, json=body, params=query)


async def test_a_test_is_a_real_message_of_the_admins(gateway: Gateway) -> None:
    async with gateway.log_of(MESSAGES) as log:
        testing = asyncio.create_task(post(gateway, "p/test", body={"message": "try", "metadata": {"test": 0, "k": 1}}))
        while (event := await log.next()) and not (isinstance(event, MessageSent) and event.message == "try"):
            pass
    assert (event.persona_id, event.user_id, event.message) == ("p", "root", "try")
    assert (event.metadata["test"], event.metadata["k"], event.metadata["ipAddress"]) == (True, 1, "127.0.0.1")
    await gateway.add_session(event.session_id, user_id="root")
    said = {"id": new_id(), "chat_session_id": event.session_id, "role": "persona", "created_at": event.occurred_at}
    await gateway.execute(insert(messages).values(**said, content="hi"))
    await gateway.end_session(event.session_id, SessionStatus.COMPLETED)
    answer = await testing
    EndedSession.model_validate(answer.json())
    assert (answer.status_code, answer.json()["reply"]) == (200, "hi")
    assert ("persona.test", "p") in [(entry.action, entry.target) for entry in await gateway.rows(audit_log)]


async def test_tests_wait_for_no_other_and_repeats_of_a_key_are_one(gateway: Gateway) -> None:
    answers = [await post(gateway, "p/test", wait=0) for _ in range(2)]
    first = await post(gateway, "p/test", {**ROOT, "idempotency-key": "k"}, wait=0)
    async with gateway.log_of(MESSAGES, first.json()["conversationId"]) as log:
        repeated = await post(gateway, "p/test", {**ROOT, "idempotency-key": "k"}, wait=0)
        assert await log.is_silent()
    answers += [first, repeated]
    assert {answer.status_code for answer in answers} == {202}
    Accepted.model_validate(first.json())
    assert repeated.json() == first.json()
    assert len({answer.json()["conversationId"] for answer in answers}) == 3


async def test_a_wrong_test_is_refused(gateway: Gateway) -> None:
    assert (await post(gateway, "nobody/test")).json()["code"] == "no-such-persona"
    assert (await post(gateway, "p/test", ADA)).json()["code"] == "admin-only"
    assert (await post(gateway, "p/test", body={"message": ""})).json()["errors"][0]["field"] == "message"
    assert (await post(gateway, "p/test", wait=61)).json()["errors"][0]["field"] == "wait"


async def test_a_persona_is_paused_until_it_is_resumed(gateway: Gateway) -> None:
    async def paused() -> bool:
        return bool((await gateway.get("/api/personas/p", ROOT)).json()["paused"])

    assert not await paused()
    for _ in range(2):
        answer = await post(gateway, "p/pause")
        Persona.model_validate(answer.json())
        assert (answer.status_code, answer.json()["paused"]) == (200, True)
    await gateway.http.put("/api/personas/p", headers=ROOT, json=WEBHOOK)
    assert await paused()
    assert (await post(gateway, "p/resume")).json()["paused"] is False
    assert not await paused()
    actions = [entry.action for entry in await gateway.rows(audit_log)]
    assert actions[1:] == ["persona.pause", "persona.pause", "persona.put", "persona.resume"]
    for action in ("pause", "resume"):
        assert (await post(gateway, f"nobody/{action}")).json()["code"] == "no-such-persona"
        assert (await post(gateway, f"p/{action}", ADA)).json()["code"] == "admin-only"
