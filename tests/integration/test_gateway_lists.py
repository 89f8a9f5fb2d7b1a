"""Lists of sessions: by page, by filter, by conversation."""

from collections.abc import AsyncIterator

import pytest

from services.api_gateway.answer_models import SessionList
from services.contracts import SessionStatus
from services.contracts.ids import id_time
from services.database.tables import audit_log
from tests.integration.gateway import ROOT, Gateway, caught_up_gateway, old_id


@pytest.fixture
async def gateway(broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with caught_up_gateway(broker, postgres_url) as running:
        yield running


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
