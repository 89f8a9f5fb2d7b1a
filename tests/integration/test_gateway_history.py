"""Reading a session again: what has not changed, and histories too long for one answer."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from services.api_gateway.answer_models import History, SessionDetail
from services.api_gateway.history import MAX_EVENTS
from services.contracts import SessionStatus, new_id
from services.contracts.ids import id_time
from services.database.tables import chat_sessions, session_events
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, old_id, until_waiters

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_what_has_not_changed_is_304(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id(), metadata={"ipAddress": "192.0.2.7"})
    path = f"/api/chat-sessions/{session_id}"
    first = await gateway.get(path)
    tag = first.headers["etag"]
    assert tag.startswith('"1-')
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = await gateway.get(path, {**ADA, "if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await gateway.get(path, {**ADA, "if-none-match": "nonsense"})).status_code == 200


async def test_everything_that_is_told_makes_a_new_tag(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id(), metadata={"ipAddress": "192.0.2.7"})
    path = f"/api/chat-sessions/{session_id}"
    seen = [(await gateway.get(path)).headers["etag"]]

    async def changed() -> bool:
        answer = await gateway.get(path, {**ADA, "if-none-match": ", ".join(seen)})
        seen.append(answer.headers["etag"])
        return answer.status_code == 200

    await gateway.end_session(session_id, SessionStatus.CANCELLED)
    assert await changed()
    await add_events(gateway, session_id, 1, late=True)
    assert await changed()
    await gateway.execute(update(chat_sessions).values(metadata={}))
    assert await changed()
    assert not await changed()


async def test_a_wait_comes_before_the_comparison(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    path = f"/api/chat-sessions/{session_id}"
    known = {**ADA, "if-none-match": (await gateway.get(path)).headers["etag"]}
    assert (await gateway.get(path, known, wait=0.1)).status_code == 304
    waiting = asyncio.create_task(gateway.get(path, known, wait=20))
    await until_waiters(gateway, 1)
    await gateway.end_session(session_id, SessionStatus.FAILED)
    assert (await waiting).json()["status"] == "FAILED"


async def test_a_long_history_goes_by_pages_from_where_the_timeline_ends(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id())
    await add_events(gateway, session_id, MAX_EVENTS + 130)
    detail = (await gateway.get(f"/api/chat-sessions/{session_id}")).json()
    SessionDetail.model_validate(detail)
    assert len(detail["timeline"]) == MAX_EVENTS
    told = detail["timeline"] + await pages(gateway, session_id, detail["timelineCursor"], limit=60)
    assert [event["attempt"] for event in told] == list(range(1, MAX_EVENTS + 131))
    assert await pages(gateway, session_id, None, limit=MAX_EVENTS) == told


async def test_events_of_the_same_moment_are_each_told_once(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id())
    await add_events(gateway, session_id, 7, apart=timedelta())
    told = await pages(gateway, session_id, None, limit=2)
    assert sorted(event["attempt"] for event in told) == list(range(1, 8))


async def test_a_short_history_is_told_whole(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id())
    await add_events(gateway, session_id, MAX_EVENTS)
    assert (await gateway.get(f"/api/chat-sessions/{session_id}")).json()["timelineCursor"] is None
    answer = await gateway.get(f"/api/chat-sessions/{session_id}/events", limit=MAX_EVENTS)
    assert answer.json()["nextCursor"] is None


async def test_a_history_is_its_users_and_its_questions_are_strict(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id())
    path = f"/api/chat-sessions/{session_id}/events"
    assert [(await gateway.get(path, who)).status_code for who in (ADA, ROOT, BOB)] == [200, 200, 404]
    assert (await gateway.get(f"/api/chat-sessions/{old_id()}/events")).status_code == 404
    assert (await gateway.get("/api/chat-sessions/nonsense/events")).status_code == 404
    for name, value in (("limit", 0), ("limit", MAX_EVENTS + 1), ("cursor", "AAAA"), ("cursor", "é"), ("offset", 1)):
        answer = await gateway.get(path, **{name: value})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, name), value


async def add_events(
    gateway: Gateway, session_id: UUID, count: int, *, late: bool = False, apart: timedelta = timedelta(microseconds=1)
) -> None:
    """Write so many attempts, numbered from 1, as the tracker would; the newest first."""
    started = id_time(session_id)
    await gateway.execute(
        insert(session_events).values([_event(session_id, started + n * apart, n, late) for n in range(count, 0, -1)])
    )


def _event(session_id: UUID, at: datetime, attempt: int, late: bool) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "event_id": new_id(),
        "type": "WebhookAttempted",
        "occurred_at": at,
        "recorded_at": at,
        "late": late,
        "body": {"attempt": attempt, "userId": "ada"},
    }


async def pages(gateway: Gateway, session_id: UUID, cursor: str | None, limit: int) -> list[dict[str, Any]]:
    """Read a history to its end."""
    told: list[dict[str, Any]] = []
    while True:
        query = {"limit": limit} if cursor is None else {"limit": limit, "cursor": cursor}
        page = (await gateway.get(f"/api/chat-sessions/{session_id}/events", **query)).json()
        History.model_validate(page)
        assert len(page["items"]) <= limit
        told += page["items"]
        cursor = page["nextCursor"]
        if cursor is None:
            return told
