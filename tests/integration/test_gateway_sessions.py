"""Reading, listing and cancelling sessions, and cleaning up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from services.api_gateway.answer_models import Session, SessionDetail, SessionList
from services.contracts import CancelRequested, SessionChanged, SessionStatus, TimeoutSweep, encode, new_id
from services.contracts.ids import id_time
from services.contracts.topics import CONTROL, SWEEPS
from services.database.partitions import id_at
from services.database.tables import audit_log, messages, session_events, sweeps
from services.runtime.kafka import build_producer, publish
from services.runtime.settings import KafkaSettings
from tests.integration.gateway import ADA, BOB, LONG_AGO, ROOT, Gateway, ready, running_gateway, until


@pytest.fixture
async def gateway(broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(broker, postgres_url) as running:
        await ready(running)
        await running.folded(datetime.now(UTC) + timedelta(minutes=1))
        yield running


def old_id(minutes: int = 0) -> UUID:
    """The id of a session that began an hour, and some minutes, ago."""
    return UUID(int=id_at(datetime.now(UTC) - LONG_AGO - timedelta(minutes=minutes)).int | new_id().int & (1 << 80) - 1)


async def test_a_session_is_told_with_its_messages_and_timeline(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id(), metadata={"n": 10**30}, attempts=1)
    started = id_time(session_id)
    await gateway.end_session(
        session_id, SessionStatus.COMPLETED, ended_at=started + timedelta(milliseconds=1250), response_ms=1250
    )
    said = {"chat_session_id": session_id, "created_at": started}
    await gateway.execute(insert(messages).values(id=new_id(), role="user", content="hello", **said))
    await gateway.execute(insert(messages).values(id=new_id(), role="persona", content="hi", **said))
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
    assert (theirs.status_code, theirs.json()) == (404, none.json())
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
    await waiters(gateway, 1)
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
    await waiters(gateway, 1)
    await gateway.end_session(session_id, SessionStatus.FAILED, failure_kind="http-5xx")
    answer = await reading
    assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
    over = await gateway.get(f"/api/chat-sessions/{await gateway.add_session()}", wait=0.2)
    assert (over.status_code, over.json()["status"]) == (200, "ACTIVE")


async def test_a_session_change_wakes_who_waits(gateway: Gateway, broker: str) -> None:
    session_id = await gateway.add_session()
    with gateway.changes.waiter(session_id) as waiter:
        napping = asyncio.create_task(waiter.nap(60))
        async with asyncio.timeout(20):
            # The gateway reads from the end, so what is told before it has begun to read is not seen.
            while not napping.done():
                await tell_changed(broker, session_id)
                await asyncio.wait([napping], timeout=0.2)


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


async def test_cancel_with_a_wrong_body_is_refused(gateway: Gateway) -> None:
    path = f"/api/chat-sessions/{await gateway.add_session()}/cancel"
    for body in ({"reason": "x" * 2049}, {"reason": 1}, {"why": "x"}, {"reason": "a\0"}):
        answer = await gateway.http.patch(path, headers=ADA, json=body)
        assert answer.status_code == 400, body
        assert answer.json()["errors"][0]["field"] == next(iter(body))


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


async def collect(gateway: Gateway, **query: object) -> list[str]:
    """The ids of all pages, by cursor."""
    found: list[str] = []
    cursor: dict[str, object] = {}
    while True:
        answer = (await gateway.get("/api/chat-sessions", **query, **cursor)).json()
        SessionList.model_validate(answer)
        found += [item["sessionId"] for item in answer["items"]]
        if answer["nextCursor"] is None:
            return found
        cursor = {"cursor": answer["nextCursor"]}


async def test_a_list_goes_by_cursor_both_ways_and_by_offset(gateway: Gateway) -> None:
    ids = [str(await gateway.add_session(old_id(minutes))) for minutes in range(7)]
    await gateway.add_session(old_id(), user_id="bob")
    assert await collect(gateway, limit=3) == ids
    assert await collect(gateway, limit=7) == ids
    assert await collect(gateway, limit=2, sort="startedAt") == ids[::-1]
    page = (await gateway.get("/api/chat-sessions", limit=2, offset=3)).json()
    assert [item["sessionId"] for item in page["items"]] == ids[3:5]
    assert (page["total"], page["totalCapped"], page["limit"], page["offset"]) == (7, False, 2, 3)


async def test_a_list_is_filtered(gateway: Gateway) -> None:
    failed = await gateway.add_session(old_id(3), status=SessionStatus.FAILED, error_message="It broke 100%_\\ today.")
    timed_out = await gateway.add_session(old_id(2), status=SessionStatus.TIMEOUT, conversation_id="c-2")
    active = await gateway.add_session(old_id(1), persona_id="slow")
    newest_first = [str(active), str(timed_out), str(failed)]
    assert await collect(gateway) == newest_first
    assert await collect(gateway, status="FAILED,timeout") == newest_first[1:]
    assert await collect(gateway, personaId="slow") == [str(active)]
    assert await collect(gateway, conversationId="c-2") == [str(timed_out)]
    assert await collect(gateway, q="100%_\\ TODAY") == [str(failed)]
    assert await collect(gateway, q="%") == [str(failed)]
    boundary = id_time(timed_out).isoformat()
    assert await collect(gateway, **{"from": boundary}) == newest_first[:2]
    assert await collect(gateway, to=boundary) == newest_first[2:]


async def test_a_total_is_counted_up_to_a_thousand(gateway: Gateway) -> None:
    one = await gateway.add_session(old_id())
    copy = """
        INSERT INTO chat_sessions (id, "sessionId", "conversationId", "personaId", "userId", status, "startedAt",
            "lastActivityAt", version)
        SELECT n, n, 'c', 'p', 'ada', 'ACTIVE', now(), now(), 1 FROM (
            SELECT (substr($1, 1, 24) || lpad(i::text, 12, '0'))::uuid AS n FROM generate_series(1, 1000) AS i) AS ids
    """
    async with gateway.engine.begin() as connection:
        await connection.exec_driver_sql(copy, (str(one),))
    answer = (await gateway.get("/api/chat-sessions", limit=1)).json()
    assert (answer["total"], answer["totalCapped"], len(answer["items"])) == (1000, True, 1)


async def test_only_an_admin_lists_another_users_sessions(gateway: Gateway) -> None:
    theirs = await gateway.add_session(old_id(), user_id="bob")
    refused = await gateway.get("/api/chat-sessions", userId="bob")
    assert (refused.status_code, refused.json()["code"]) == (403, "admin-only")
    listed = (await gateway.get("/api/chat-sessions", ROOT, userId="bob")).json()
    assert [item["sessionId"] for item in listed["items"]] == [str(theirs)]
    assert (await gateway.get("/api/chat-sessions", ROOT)).json()["items"] == []
    [entry] = await gateway.rows(audit_log)
    assert (entry.actor, entry.action, entry.target, entry.outcome) == ("ada", "session.list", "bob", "refused")


WRONG_PARAMETERS: list[tuple[dict[str, object], str]] = [
    ({"limit": 0}, "limit"),
    ({"limit": 201}, "limit"),
    ({"limit": "\u0661"}, "limit"),
    ({"offset": 10_001}, "offset"),
    ({"offset": -1}, "offset"),
    ({"status": "DONE"}, "status"),
    ({"sort": "endedAt"}, "sort"),
    ({"cursor": "zzz"}, "cursor"),
    ({"from": "yesterday"}, "from"),
    ({"to": "0001-01-01T00:00:00+14:00"}, "to"),
    ({"q": "x" * 201}, "q"),
    ({"q": ""}, "q"),
    ({"q": "a\0"}, "q"),
    ({"personaId": "p" * 129}, "personaId"),
    ({"colour": "red"}, "colour"),
]


async def test_a_wrong_parameter_is_refused_by_name(gateway: Gateway) -> None:
    for query, field in WRONG_PARAMETERS:
        answer = await gateway.get("/api/chat-sessions", **query)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter"), query
        assert answer.json()["errors"][0]["field"] == field


async def test_a_cursor_holds_for_its_own_order_only(gateway: Gateway) -> None:
    for minutes in range(2):
        await gateway.add_session(old_id(minutes))
    cursor = (await gateway.get("/api/chat-sessions", limit=1)).json()["nextCursor"]
    for query in ({"sort": "startedAt"}, {"offset": 1}):
        assert (await gateway.get("/api/chat-sessions", cursor=cursor, **query)).status_code == 400


async def test_a_conversations_active_sessions_are_listed(gateway: Gateway) -> None:
    active = await gateway.add_session(old_id(), conversation_id="c-9")
    ended = await gateway.add_session(old_id(), conversation_id="c-9", status=SessionStatus.FAILED)
    await gateway.add_session(old_id(), conversation_id="c-9", user_id="bob")
    path = "/api/conversations/c-9/chat-sessions"
    assert [item["sessionId"] for item in (await gateway.get(path)).json()["items"]] == [str(active)]
    failed = (await gateway.get(path, status="FAILED")).json()
    assert [item["sessionId"] for item in failed["items"]] == [str(ended)]
    assert (await gateway.get(path, ROOT)).json()["total"] == 2


async def test_cleanup_asks_for_a_sweep_and_tells_what_it_did(gateway: Gateway) -> None:
    path = "/api/chat-sessions/cleanup"
    async with gateway.log_of(SWEEPS) as log:
        # As the documented command sends it: no content type of JSON.
        headers = {**ROOT, "content-type": "application/x-www-form-urlencoded"}
        asking = asyncio.create_task(gateway.http.post(path, headers=headers, content=b'{"maxAgeHours": 24}'))
        event = await log.next()
    assert isinstance(event, TimeoutSweep)
    assert (event.event_id, event.max_age_hours, event.requested_by) == (event.sweep_id, 24, "root")
    row = {"sweep_id": event.sweep_id, "requested_by": "root", "as_of": event.as_of, "max_age_hours": 24}
    finished = {"dry_run": False, "timed_out": 17, "finished_at": datetime.now(UTC)}
    await gateway.execute(insert(sweeps).values(**row, **finished))
    answer = await asking
    assert answer.status_code == 200
    assert (answer.json()["sweepId"], answer.json()["timedOut"]) == (str(event.sweep_id), 17)
    looked_up = await gateway.get(f"{path}/{event.sweep_id}", ROOT)
    assert looked_up.json() == answer.json()
    assert [entry.action for entry in await gateway.rows(audit_log)] == ["cleanup"]


async def test_a_cleanup_that_takes_longer_is_202_with_where_to_look(gateway: Gateway) -> None:
    answer = await gateway.http.post("/api/chat-sessions/cleanup", headers=ROOT, json={"dryRun": True})
    assert (answer.status_code, answer.json()["dryRun"]) == (202, True)
    assert (await gateway.get(answer.headers["location"], ROOT)).status_code == 404


async def test_a_wrong_cleanup_is_refused(gateway: Gateway) -> None:
    for body in ({"maxAgeHours": 0}, {"maxAgeHours": "24"}, {"dryRun": 1}, {"hours": 1}):
        answer = await gateway.http.post("/api/chat-sessions/cleanup", headers=ROOT, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body"), body


async def test_only_an_admin_cleans_up(gateway: Gateway) -> None:
    answer = await gateway.http.post("/api/chat-sessions/cleanup", headers=ADA, json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "admin-only")
    [entry] = await gateway.rows(audit_log)
    assert (entry.actor, entry.action, entry.outcome) == ("ada", "cleanup", "refused")


async def test_sessions_can_be_turned_off_while_messages_are_sent(broker: str, postgres_url: str) -> None:
    async with running_gateway(broker, postgres_url, enable_chat_sessions=False) as gateway:
        await ready(gateway)
        session_id = await gateway.add_session(old_id())
        calls = [
            ("GET", "/api/chat-sessions"),
            ("GET", f"/api/chat-sessions/{session_id}"),
            ("PATCH", f"/api/chat-sessions/{session_id}/cancel"),
            ("GET", "/api/chat-sessions/stats"),
            ("POST", "/api/chat-sessions/cleanup"),
            ("GET", "/api/conversations/c-1/chat-sessions"),
        ]
        for method, path in calls:
            answer = await gateway.http.request(method, path, headers=ROOT)
            assert (answer.status_code, answer.json()["code"]) == (503, "sessions-disabled"), path
        assert (await gateway.send("c-off", wait=0.1)).status_code == 202


async def waiters(gateway: Gateway, count: int) -> None:
    """Return once so many requests wait for a session."""
    await until(lambda: gateway.http.get("/metrics"), lambda answer: f"chat_waiters {count:.1f}" in answer.text)


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
