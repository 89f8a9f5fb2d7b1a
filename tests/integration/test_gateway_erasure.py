"""Everything about a user, and its erasure: over HTTP, with a tracker that does what the gateway asks it to."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, update
from sqlalchemy.ext.asyncio import create_async_engine

from services.api_gateway import erasures as erasures_module
from services.api_gateway import publishing, user_data
from services.api_gateway.database import Database
from services.api_gateway.erasure_answers import Erasure
from services.api_gateway.erasures import Erasures
from services.api_gateway.user_data import UserData
from services.contracts import CancelRequested, ErasureRequested, FailureKind, new_id
from services.contracts.ids import derived_id
from services.contracts.topics import CONTROL
from services.database.tables import (
    audit_log,
    conversations,
    erasure_requests,
    erasures,
    idempotency_keys,
    jobs,
    messages,
    session_events,
)
from services.runtime.pseudonyms import Pseudonyms
from tests.integration.gateway import (
    ADA,
    BOB,
    HASH_KEY,
    ROOT,
    Gateway,
    bearer,
    caught_up_gateway,
    named,
    old_id,
    ready,
    running_gateway,
    until,
)
from tests.integration.tracker_process import publish_events, tracker, until_value
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents

SECRET = "kangaroo"
NAMES = Pseudonyms(HASH_KEY.encode())
ERASED = NAMES.erased("ada")
DATA = "/api/users/ada/data"


@pytest.fixture
async def gateway(broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with caught_up_gateway(broker, postgres_url) as running:
        yield running


@pytest.fixture
async def whole(bootstrap: str, postgres_url: str) -> AsyncIterator[Gateway]:
    """A gateway beside a tracker."""
    async with (
        tracker(bootstrap, postgres_url, user_hash_key=HASH_KEY) as running,
        running_gateway(bootstrap, postgres_url, topics=False) as gateway,
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


async def until_request(gateway: Gateway, enough: Callable[[Any], bool]) -> Any:
    """The only request as soon as it is so far."""
    async with asyncio.timeout(15):
        while not enough(row := (await gateway.rows(erasure_requests))[0]):
            await asyncio.sleep(0.01)
    return row


async def lines(gateway: Gateway, path: str = DATA, **headers: str) -> list[dict[str, Any]]:
    answer = await gateway.http.get(path, headers={**ROOT, **headers})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def kinds(told: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = told[-1]["counts"]
    assert [line["kind"] for line in (told[0], told[-1])] == ["user", "end"]
    assert found == {kind: sum(line["kind"] == kind for line in told[:-1]) for kind in found}
    return found


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


async def test_a_users_whole_journey(whole: Gateway, postgres_url: str) -> None:
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
    assert [row.userId for row in await whole.rows(erasures)] == ["ada"]

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
    await assert_rollups_exact(postgres_url)

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
    [bulk] = (await whole.get("/api/audit", ROOT, action="sessions.bulk")).json()["items"]
    assert (bulk["details"]["filter"], bulk["details"]["users"]) == (None, [user])


async def test_what_waits_for_a_reply_while_its_user_is_erased_is_told_nothing(whole: Gateway) -> None:
    waiting = asyncio.create_task(whole.send("c-1", ADA, wait=3, message=SECRET))
    await until_value(str(whole.engine.url.render_as_string(False)), "SELECT count(*) FROM chat_sessions", 1)
    await erased(whole)
    answer = await waiting
    assert answer.status_code in {200, 202}
    assert SECRET not in answer.text
    assert answer.json().get("reply") is None


async def test_a_gateway_of_another_time_asks_for_the_rest(
    broker: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures_module, "PAGE", 3)
    own = f"{uuid4()}-"
    owned = [{"conversation_id": f"{own}c-{n}", "user_id": "ada"} for n in range(4)]
    # What the tracker has given away already counts too.
    owned += [{"conversation_id": f"{own}d-{n}", "user_id": ERASED} for n in range(4)]
    async with caught_up_gateway(broker, postgres_url) as gateway:
        await gateway.execute(insert(conversations), [*owned, {"conversation_id": "e", "user_id": "bob"}])
        active = await gateway.add_session(old_id(), conversation_id=f"{own}c-1")
        await gateway.add_session(old_id(), conversation_id="e", user_id="bob")
    with monkeypatch.context() as impatient:
        impatient.setattr(publishing, "ACKNOWLEDGE_SECONDS", 0.5)
        async with running_gateway("127.0.0.1:9", postgres_url, topics=False) as away:
            asked = await away.http.delete(DATA, headers=ROOT)
            assert (asked.status_code, asked.json()["state"]) == (202, "running")
            await until_request(away, lambda row: row.workerUntil is not None)
            row = await until_request(away, lambda row: row.workerUntil is None)
    # As if it had come so far before its broker went away, and another worked on it now.
    so_far = {"position": f"{own}c-2", "asked": 3, "worker_until": datetime.now(UTC) + timedelta(hours=1)}
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.execute(update(erasure_requests).values(so_far))
    await engine.dispose()
    async with caught_up_gateway(broker, postgres_url) as gateway, gateway.log_of(CONTROL, keys=own) as log:
        assert await log.is_silent()
        await gateway.execute(update(erasure_requests).values(worker_until=None))
        events = [await log.next() for _ in range(6)]
        assert await log.is_silent()
        [done] = await gateway.rows(erasure_requests)
    [cancel] = [event for event in events if isinstance(event, CancelRequested)]
    assert (cancel.session_id, cancel.user_id, cancel.requested_by) == (active, "ada", "root")
    told = [event for event in events if isinstance(event, ErasureRequested)]
    assert {event.conversation_id for event in told} == {own + each for each in ("c-3", "d-0", "d-1", "d-2", "d-3")}
    assert {(event.user_id, event.before, event.requested_by) for event in told} == {("ada", row.before, "root")}
    assert {event.event_id for event in told} == {derived_id(row.erasureId, event.conversation_id) for event in told}
    assert done.askedAt is not None
    assert done.asked == 8


@pytest.mark.parametrize("user", ["https://idp.example/people/7", "two\nlines"])
async def test_of_a_user_whom_nobody_knows_the_tracker_hears_too(whole: Gateway, user: str) -> None:
    receipt = await erased(whole, f"/api/users/{quote(user, safe=':/')}/data")
    assert [receipt[name] for name in ("conversations", "sessions", "messages", "events")] == [0, 0, 0, 0]
    assert receipt["user"] == f"user:{named(user)}"
    [row] = await whole.rows(erasures)
    assert row.userId == user


async def test_what_the_broker_has_lost_is_asked_for_again(gateway: Gateway) -> None:
    asked = await gateway.http.delete(DATA, headers=ROOT)
    path = asked.headers["location"]
    await until_request(gateway, lambda row: row.askedAt is not None)
    async with gateway.log_of(CONTROL, asked.json()["erasureId"]) as log:
        await gateway.execute(update(erasure_requests).values(asked_at=func.now() - timedelta(minutes=2)))
        assert isinstance(await log.next(), ErasureRequested)
    [row] = await gateway.rows(erasure_requests)
    done = {"user_id": "ada", "before": row.before, "requested_by": "root", "begun_at": row.before, "sessions": 7}
    await gateway.execute(insert(erasures).values(done))
    assert (await gateway.get(path, ROOT)).json()["sessions"] == 7, "so far"
    await gateway.execute(update(erasures).values(finished_at=func.now()))
    receipt = await until(lambda: gateway.get(path, ROOT), lambda answer: answer.json()["state"] == "finished")
    assert receipt.json()["sessions"] == 7
    [row] = await gateway.rows(erasure_requests)
    assert (row.userId, row.userName) == (None, named("ada")), "the receipt does not name him"


async def test_keys_and_filters_from_before_are_forgotten_and_no_others(gateway: Gateway) -> None:
    long_ago, soon = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(minutes=1)
    keys = [
        {"user_id": user, "key": key, "route": "r", "body_hash": b"", "session_id": new_id(), "event_id": new_id(),
         "created_at": at, "sent_at": at}
        for user, key, at in [("ada", "old", long_ago), ("ada", "new", soon), ("bob", "old", long_ago)]
    ]  # fmt: skip
    await gateway.execute(insert(idempotency_keys), keys)
    filters = {"user:ada": True, 'status:ACTIVE -user:(bob OR "ada")': True, "user:ada-2": False, "persona:ada": False}
    rows = [
        {"job_id": new_id(), "requested_by": "root", "action": "cancel", "filter": text, "dry_run": True,
         "per_second": 1, "state": "running", "created_at": long_ago, "worker": new_id(),
         "worker_until": soon}
        for text in [*filters, "user:gone-since colour:red"]
    ]  # fmt: skip
    await gateway.execute(insert(jobs), rows)
    await gateway.http.delete(DATA, headers=ROOT)
    await until_request(gateway, lambda row: row.askedAt is not None)
    assert {(row.userId, row.key) for row in await gateway.rows(idempotency_keys)} == {("ada", "new"), ("bob", "old")}
    states = {row.jobId: (row.filter, row.state) for row in await gateway.rows(jobs)}
    for row in rows:
        gone = filters.get(str(row["filter"]), False)
        assert states[row["job_id"]] == ((None, "cancelled") if gone else (row["filter"], "running"))


async def test_everything_about_a_user_comes_page_by_page(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_data, "PAGE", 3)
    monkeypatch.setattr(user_data, "PAGE_OF_TEXTS", 2)
    ids = [await gateway.add_session(old_id(40 * 24 * 60 * n), conversation_id=f"c-{n % 2}") for n in range(8)]
    await gateway.add_session(old_id(), user_id="bob")
    now = datetime.now(UTC)
    for session_id in ids:
        said = [
            {"id": new_id(), "chat_session_id": session_id, "role": role, "created_at": now, "content": f"{SECRET}\n"}
            for role in ("user", "persona")
        ]
        await gateway.execute(insert(messages), said)
        event = {"session_id": session_id, "type": "MessageSent", "occurred_at": now, "recorded_at": now}
        await gateway.execute(insert(session_events), [{**event, "event_id": new_id(), "body": {}} for _ in range(3)])
    await gateway.execute(insert(conversations), [{"conversation_id": f"c-{n}", "user_id": "ada"} for n in range(7)])
    await gateway.http.get("/api/personas", headers=ADA)  # refused, and an act of hers
    told = await lines(gateway)
    assert kinds(told) == {"user": 1, "conversation": 7, "session": 8, "message": 16, "event": 24, "act": 1}
    assert [line["sessionId"] for line in told if line["kind"] == "session"] == sorted(str(each) for each in ids)
    assert len({(line["sessionId"], line["eventId"]) for line in told if line["kind"] == "event"}) == 24
    assert {line["content"] for line in told if line["kind"] == "message"} == {f"{SECRET}\n"}
    assert "bob" not in str(told)
    async with gateway.http.stream("GET", DATA, headers={**ROOT, "accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert [json.loads(line) for line in gzip.decompress(packed).splitlines()][1:] == told[1:]
    pages = [page async for page in UserData(Database(gateway.engine), "ada", named("ada")).pages()]
    assert max(map(len, pages)) <= 3


async def test_it_is_for_admins_and_each_time_written_down(gateway: Gateway) -> None:
    for method in ("GET", "DELETE"):
        refused = await gateway.http.request(method, DATA, headers=ADA)
        assert (refused.status_code, refused.json()["code"]) == (403, "admin-only"), "of himself too"
    told = [(row.actor, row.action, row.target, row.outcome, row.address) for row in await gateway.rows(audit_log)]
    ada = f"user:{named('ada')}"
    assert sorted(told) == [
        (named("ada"), "user.erase", ada, "refused", None),
        (named("ada"), "user.export", ada, "refused", None),
    ]
    assert await gateway.rows(erasure_requests) == []


WRONG = {
    f"/api/users/{'x' * 129}/data": 400,
    f"/api/users/{ERASED}/data": 400,
    "/api/users//data": 400,
    "/api/users/ada/data?before=2026-01-01": 400,
}


@pytest.mark.parametrize("path", WRONG)
async def test_a_wrong_request_is_refused(gateway: Gateway, path: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await gateway.http.request(method, path, headers=ROOT)
        assert (answer.status_code, answer.json()["code"]) == (WRONG[path], "invalid-parameter")
    assert await gateway.rows(erasure_requests) == []


async def test_an_erasure_that_nobody_asked_for_is_not_there(gateway: Gateway) -> None:
    for erasure_id in (new_id(), "nonsense"):
        answer = await gateway.get(f"/api/erasures/{erasure_id}", ROOT)
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-erasure")


async def test_nobody_can_be_who_stands_for_an_erased_user(gateway: Gateway) -> None:
    answer = await gateway.get("/api/chat-sessions", bearer(ERASED))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token")


async def test_without_a_key_a_conversation_is_nobodys_afterwards(broker: str, postgres_url: str) -> None:
    async with caught_up_gateway(broker, postgres_url, user_hash_key=None) as gateway:
        row = {"conversation_id": "c-1", "user_id": Pseudonyms(None).erased("ada")}
        await gateway.execute(insert(conversations).values(row))
        for headers in (ADA, BOB):
            assert (await gateway.send("c-1", headers)).status_code == 404
        unnamed = Erasures(Database(gateway.engine), Pseudonyms(None))
        assert await unnamed.conversations_after("ada", None) == []
