"""An erasure over HTTP, with a tracker that does what the gateway asks it to: one of both for all tests."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import pytest_asyncio

from services.api_gateway.erasure_answers import Erasure
from services.contracts import FailureKind
from services.database.tables import erasures
from tests.integration.gateway import ADA, BOB, HASH_KEY, ROOT, Gateway, bearer, named, ready, running_gateway, until
from tests.integration.tracker_process import publish_events, tracker, until_value
from tests.integration.user_data import DATA, ERASED, SECRET, kinds, lines
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.any_broker]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(module_bootstrap: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """A gateway beside a tracker."""
    async with (
        tracker(module_bootstrap, module_postgres_url, user_hash_key=HASH_KEY) as running,
        running_gateway(module_bootstrap, module_postgres_url, topics=False, rate_limit_reads=0) as gateway,
    ):
        await running.until_ready()
        await ready(gateway)
        yield gateway


async def erased(gateway: Gateway, path: str = DATA) -> dict[str, Any]:
    """Have a user erased; return the receipt."""
    asked = await gateway.http.delete(path, headers=ROOT)
    assert asked.status_code == 202, asked.text
    Erasure.model_validate(asked.json())
    answer = await until(
        lambda: gateway.get(asked.headers["location"], ROOT), lambda answer: answer.json()["state"] == "finished"
    )
    receipt: dict[str, Any] = answer.json()
    Erasure.model_validate(receipt)
    return receipt


async def talk(
    gateway: Gateway, conversation: str, headers: dict[str, str], user: str, end: str, word: str = SECRET
) -> UUID:
    """Send a message as a user, end its session as the dispatcher would, and wait until that is told."""
    sent = await gateway.send(conversation, headers, message=f"my {word}", metadata={"note": word})
    session_id = UUID(sent.json()["sessionId"])
    one = SessionEvents(session_id=session_id, conversation=conversation, persona="echo", user=user)
    if end == "completed":
        await publish_events(gateway.bootstrap, [one.succeeded(f"your {word}", at=datetime.now(UTC))])
    elif end == "failed":
        event = one.failed(FailureKind.WORKFLOW_ERROR, at=datetime.now(UTC))
        await publish_events(gateway.bootstrap, [event.model_copy(update={"error_message": word})])
    path = f"/api/chat-sessions/{session_id}"
    wanted = {"completed": "COMPLETED", "failed": "FAILED", "open": "ACTIVE"}[end]
    await until(lambda: gateway.get(path, headers), lambda answer: answer.json().get("status") == wanted)
    return session_id


async def everything(gateway: Gateway, *but: str) -> str:
    """All that PostgreSQL holds, as text."""
    async with gateway.engine.connect() as connection:
        tables = await connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
            " AND relnamespace = 'public'::regnamespace"
        )
        told = []
        for (table,) in tables.all():
            if table not in but:
                told += (await connection.exec_driver_sql(f"SELECT to_jsonb(t)::text FROM {table} t")).scalars().all()
    return "\n".join(told)


async def test_a_users_whole_journey(whole: Gateway, module_postgres_url: str) -> None:
    completed = await talk(whole, "c-1", ADA, "ada", "completed")
    failed = await talk(whole, "c-1", ADA, "ada", "failed")
    active = await talk(whole, "c-2", ADA, "ada", "open")
    bobs = await talk(whole, "c-3", BOB, "bob", "completed", "platypus")
    keyed = await whole.http.post(
        "/api/conversations/c-1/messages",
        headers={**ADA, "idempotency-key": "k"},
        json={"personaId": "echo", "message": SECRET},
    )
    job = {"action": "cancel", "filter": "user:ada status:COMPLETED", "dryRun": True}
    job_path = (await whole.http.post("/api/chat-sessions/bulk", headers=ROOT, json=job)).headers["location"]
    of_bob = [await whole.get(f"/api/chat-sessions/{bobs}", BOB), await lines(whole, "/api/users/bob/data")]
    tag = (await whole.get(f"/api/chat-sessions/{completed}", ROOT)).headers["etag"]
    told = await lines(whole)
    assert kinds(told) | {"day": 1} == {
        "user": 1, "conversation": 2, "session": 4, "message": 5, "event": 6, "day": 1, "idempotencyKey": 1
    }  # fmt: skip
    assert SECRET in str(told)

    receipt = await erased(whole)
    assert receipt["user"] == f"user:{named('ada')}"
    assert [receipt[name] for name in ("conversations", "sessions", "messages", "requestedBy")] == [2, 4, 5, "root"]
    remains = {one["topic"]: datetime.fromisoformat(one["until"]) for one in receipt["remains"]}
    finished_at = datetime.fromisoformat(receipt["finishedAt"])
    assert remains["chat.messages.v1"] == finished_at + timedelta(days=14)
    assert {"chat.results.v1", "chat.control.v1", "chat.sessions.v1", "chat.deltas.v1"} < remains.keys()
    assert not any("sweeps" in topic for topic in remains)

    # Nothing is left but that he was erased: his id alone, and that for what may still come.
    left = await everything(whole, "erasures")
    assert SECRET not in left
    assert '"ada"' not in left
    assert "user:ada" not in left
    assert "ada" in {row.userId for row in await whole.rows(erasures)}

    # He sees nothing of it, and an admin what counts.
    assert (await whole.get("/api/chat-sessions", ADA)).json()["items"] == []
    for session_id in (completed, failed, active, keyed.json()["sessionId"]):
        # As young as they are, 503 says to come again while folding is behind.
        path = f"/api/chat-sessions/{session_id}"
        assert (await until(partial(whole.get, path, ADA), lambda told: told.status_code != 503)).status_code == 404
    seen = await whole.http.get(f"/api/chat-sessions/{completed}", headers={**ROOT, "if-none-match": tag})
    assert (seen.status_code, seen.json()["userId"], seen.json()["metadata"]) == (200, ERASED, {})
    assert [message["content"] for message in seen.json()["messages"]] == [None, None]
    assert [event["type"] for event in seen.json()["timeline"]] == ["MessageSent", "WebhookSucceeded"]
    assert SECRET not in seen.text
    retried = await whole.http.post(f"/api/chat-sessions/{failed}/retry", headers=ROOT)
    assert (retried.status_code, retried.json()["code"]) == (409, "no-message")
    assert (await whole.get(job_path, ROOT)).json()["filter"] is None
    stats = (await whole.get("/api/chat-sessions/stats", ROOT, userId=ERASED)).json()
    assert stats["byStatus"] == {"ACTIVE": 0, "COMPLETED": 1, "FAILED": 1, "TIMEOUT": 0, "CANCELLED": 2}
    assert (await whole.get("/api/chat-sessions/stats", ROOT, userId="ada")).json()["total"] == 0
    assert kinds(await lines(whole)) == {"user": 1, "erasure": 1}

    # Nobody else lost a thing.
    assert (await whole.get(f"/api/chat-sessions/{bobs}", BOB)).json() == of_bob[0].json()
    assert [line for line in await lines(whole, "/api/users/bob/data") if line["kind"] != "user"] == of_bob[1][1:]
    await assert_rollups_exact(module_postgres_url)

    # He goes on, in a conversation that is still his and nobody else's.
    assert (await whole.send("c-1", BOB)).status_code == 404
    later = await talk(whole, "c-1", ADA, "ada", "completed")
    assert [s["sessionId"] for s in (await whole.get("/api/chat-sessions", ADA)).json()["items"]] == [str(later)]
    acts = [
        (entry["actor"], entry["action"], entry["target"], entry["outcome"])
        for entry in (await whole.get("/api/audit", ROOT)).json()["items"]
        if entry["action"].startswith("user.")
    ]
    user = f"user:{named('ada')}"
    assert ("root", "user.export", user, "done") in acts
    assert ("root", "user.erase", user, "asked") in acts
    assert ("session-tracker", "user.erase", user, "erased") in acts
    [bulk] = (await whole.get("/api/audit", ROOT, action="bulk.start")).json()["items"]
    assert (bulk["details"]["filter"], bulk["details"]["users"]) == (None, [user])


async def test_what_waits_for_a_reply_while_its_user_is_erased_is_told_nothing(
    whole: Gateway, module_postgres_url: str
) -> None:
    waiting = asyncio.create_task(whole.send("of-eve", bearer("eve"), wait=3, message=SECRET))
    await until_value(module_postgres_url, "SELECT count(*) FROM chat_sessions WHERE \"userId\" = 'eve'", 1)
    await erased(whole, "/api/users/eve/data")
    answer = await waiting
    assert answer.status_code in {200, 202}
    assert SECRET not in answer.text
    assert answer.json().get("reply") is None


async def test_of_users_whom_nobody_knows_the_tracker_hears_too(whole: Gateway) -> None:
    users = ["https://idp.example/people/7", "two\nlines"]
    paths = [f"/api/users/{quote(user, safe=':/')}/data" for user in users]
    for user, receipt in zip(users, await asyncio.gather(*(erased(whole, path) for path in paths)), strict=True):
        assert [receipt[name] for name in ("conversations", "sessions", "messages", "events")] == [0, 0, 0, 0]
        assert receipt["user"] == f"user:{named(user)}"
    assert {row.userId for row in await whole.rows(erasures)} >= set(users)
