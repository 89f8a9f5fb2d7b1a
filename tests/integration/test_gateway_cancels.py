"""Cancelling a session, and what is answered."""

import asyncio

import pytest

from services.api_gateway.answer_models import Session
from services.contracts import CancelRequested, SessionStatus
from services.contracts.topics import CONTROL
from services.database.tables import audit_log
from tests.integration.gateway import ADA, ROOT, Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_cancel_answers_what_really_became_of_it(gateway: Gateway) -> None:
    session_id = await gateway.add_session(conversation_id="c-cancel", persona_id="slow")
    async with gateway.log_of(CONTROL, "c-cancel") as log:
        body = {"reason": "asked twice"}
        path = f"/api/chat-sessions/{session_id}/cancel"
        cancelling = asyncio.create_task(gateway.http.patch(path, headers=ADA, json=body))
        event = await log.next()
        assert isinstance(event, CancelRequested)
        assert (event.session_id, event.conversation_id, event.persona_id) == (session_id, "c-cancel", "slow")
        assert (event.user_id, event.requested_by, event.reason) == ("ada", "ada", "asked twice")
        await gateway.end_session(session_id, SessionStatus.CANCELLED)
        answer = await cancelling
        assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
        Session.model_validate(answer.json())
        again = await gateway.http.patch(path, headers=ADA)
        assert (again.status_code, again.json()["status"]) == (200, "CANCELLED")
        assert await log.is_silent()


async def test_cancel_of_a_session_that_ends_otherwise_is_409_with_the_session(gateway: Gateway) -> None:
    session_id = await gateway.add_session(conversation_id="c-late")
    path = f"/api/chat-sessions/{session_id}/cancel"
    async with gateway.log_of(CONTROL, "c-late") as log:
        cancelling = asyncio.create_task(gateway.http.patch(path, headers=ADA))
        await log.next()
        await gateway.end_session(session_id, SessionStatus.COMPLETED)
        for answer in (await cancelling, await gateway.http.patch(path, headers=ADA)):
            assert (answer.status_code, answer.json()["code"]) == (409, "already-ended")
            assert answer.json()["session"]["status"] == "COMPLETED"
            assert answer.json()["session"]["sessionId"] == str(session_id)
        assert await log.is_silent()


async def test_cancel_that_the_tracker_has_not_told_of_is_202(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    answer = await gateway.http.patch(f"/api/chat-sessions/{session_id}/cancel", headers=ADA, json={})
    assert (answer.status_code, answer.json()["status"]) == (202, "ACTIVE")
    assert answer.headers["location"] == f"/api/chat-sessions/{session_id}"


async def test_cancel_of_a_session_that_has_changed_is_412_with_the_session(gateway: Gateway) -> None:
    session_id = await gateway.add_session(conversation_id="c-match", version=3)
    path = f"/api/chat-sessions/{session_id}"
    tag = (await gateway.get(path)).headers["etag"]
    async with gateway.log_of(CONTROL, "c-match") as log:
        for stale in ('"2"', '"2-0123456789abcdef", "4"'):
            answer = await gateway.http.patch(f"{path}/cancel", headers={**ADA, "if-match": stale})
            assert (answer.status_code, answer.json()["code"]) == (412, "session-changed")
            assert answer.json()["session"]["version"] == 3
        wrong = await gateway.http.patch(f"{path}/cancel", headers={**ADA, "if-match": "3"})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "If-Match")
        assert await log.is_silent()
        cancelling = asyncio.create_task(gateway.http.patch(f"{path}/cancel", headers={**ADA, "if-match": tag}))
        await log.next()
        await gateway.end_session(session_id, SessionStatus.CANCELLED, version=4)
        assert (await cancelling).status_code == 200
        repeated = await gateway.http.patch(f"{path}/cancel", headers={**ADA, "if-match": tag})
        assert (repeated.status_code, repeated.json()["version"]) == (200, 4)
        assert await log.is_silent()


async def test_if_match_of_a_session_that_ended_otherwise_tells_what_it_missed(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    await gateway.end_session(session_id, SessionStatus.FAILED)
    path = f"/api/chat-sessions/{session_id}/cancel"
    for tag, status in (('"1"', 412), ('"2"', 409), ("*", 409)):
        answer = await gateway.http.patch(path, headers={**ADA, "if-match": tag})
        assert (answer.status_code, answer.json()["session"]["status"]) == (status, "FAILED")


async def test_cancel_with_a_wrong_body_is_refused(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    for _ in range(2):  # the second time of a session that is cancelled
        for body in ({"reason": "x" * 2049}, {"reason": 1}, {"why": "x"}, {"reason": "a\0"}):
            answer = await gateway.http.patch(f"/api/chat-sessions/{session_id}/cancel", headers=ADA, json=body)
            assert answer.status_code == 400, body
            assert answer.json()["errors"][0]["field"] == next(iter(body))
        await gateway.end_session(session_id, SessionStatus.CANCELLED)


async def test_an_admins_cancel_is_audited(gateway: Gateway) -> None:
    session_id = await gateway.add_session(conversation_id="c-admin")
    async with gateway.log_of(CONTROL, "c-admin") as log:
        cancelling = asyncio.create_task(gateway.http.patch(f"/api/chat-sessions/{session_id}/cancel", headers=ROOT))
        event = await log.next()
        await gateway.end_session(session_id, SessionStatus.CANCELLED)
        assert (await cancelling).status_code == 200
    assert isinstance(event, CancelRequested)
    assert (event.user_id, event.requested_by) == ("ada", "root")
    [entry] = await gateway.rows(audit_log)
    assert (entry.actor, entry.action, entry.target) == ("root", "session.cancel", str(session_id))
