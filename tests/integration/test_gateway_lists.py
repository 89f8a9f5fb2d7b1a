"""Lists of sessions: which, in which order, page by page."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from services.api_gateway.answer_models import ProblemDetails, SessionList
from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.listing import Page
from services.api_gateway.reads import SessionReads
from services.api_gateway.selection import Selection
from services.contracts import SessionStatus
from services.contracts.ids import id_time
from services.database.tables import audit_log
from tests.integration.gateway import BOB, ROOT, Gateway, named, old_id, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(any_broker, module_postgres_url, topics=False) as gateway:
        yield gateway


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


async def test_sessions_are_read_by_plain_names(gateway: Gateway) -> None:
    # With SQLAlchemy's own kind of names, a session takes 15 times as long to become JSON.
    session_id, root = await gateway.add_session(old_id()), Caller("root", is_admin=True)
    reads = SessionReads(Database(gateway.engine))
    rows, _ = await reads.page(Selection(None), Page(5))
    rows += await reads.following(Selection(None), Page(5))
    told = [await reads.session(session_id, root), await reads.detail(session_id, root, datetime.now(UTC))]
    assert {type(name) for row in rows + told for name in row or ()} == {str}


async def test_a_list_is_filtered(gateway: Gateway) -> None:
    failed = await gateway.add_session(old_id(3), status=SessionStatus.FAILED, error_message="It broke 100%_\\ today.")
    timed_out = await gateway.add_session(old_id(2), status=SessionStatus.TIMEOUT, conversation_id="c-2")
    active = await gateway.add_session(old_id(1), persona_id="slow")
    newest_first = [str(active), str(timed_out), str(failed)]
    assert await collect(gateway) == newest_first
    assert await collect(gateway, status="FAILED,timeout") == newest_first[1:]
    assert await collect(gateway, personaId="slow") == [str(active)]
    assert await collect(gateway, conversationId="c-2") == [str(timed_out)]
    assert await collect(gateway, q=r'"100%_\\ TODAY"') == [str(failed)]
    assert await collect(gateway, q="status:(FAILED OR TIMEOUT) -conversation:c-2") == [str(failed)]
    assert await collect(gateway, q="persona:slow OR conversation:c-2", status="ACTIVE,TIMEOUT") == newest_first[:2]
    boundary = id_time(timed_out).isoformat()
    assert await collect(gateway, **{"from": boundary}) == newest_first[:2]
    assert await collect(gateway, to=boundary) == newest_first[2:]
    assert await collect(gateway, q=f"startedAt:>={boundary}") == newest_first[:2]
    assert await collect(gateway, q=f"startedAt:{boundary}..{boundary}") == [str(timed_out)]


async def test_everyones_sessions_are_counted_without_any_filter(gateway: Gateway) -> None:
    async def total() -> int:
        return int((await gateway.get("/api/chat-sessions", ROOT, userId="*", limit=1)).json()["total"])

    assert await total() == 0
    for user in ("ada", "bob", "root"):
        await gateway.add_session(old_id(), user_id=user)
    assert await total() == 3


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
    assert refused.json()["detail"] == "Only a token with the role ADMIN may list sessions of other users."
    listed = (await gateway.get("/api/chat-sessions", ROOT, userId="bob")).json()
    assert [item["sessionId"] for item in listed["items"]] == [str(theirs)]
    assert (await gateway.get("/api/chat-sessions", ROOT)).json()["items"] == []
    [entry] = await gateway.rows(audit_log)
    told = (entry.actor, entry.action, entry.target, entry.outcome)
    assert told == (named("ada"), "session.list", f"user:{named('bob')}", "refused")


WRONG_PARAMETERS: list[tuple[dict[str, object], str]] = [
    ({"limit": 0}, "limit"),
    ({"limit": 201}, "limit"),
    ({"limit": "\u0661"}, "limit"),
    ({"offset": 10_001}, "offset"),
    ({"offset": -1}, "offset"),
    ({"status": "DONE"}, "status"),
    ({"sort": "endedAt"}, "sort"),
    ({"sort": "responseMs"}, "sort"),
    ({"sort": "-responseMs"}, "sort"),
    ({"sort": "-responseMs", "from": "2026-01-01"}, "sort"),
    ({"sort": "-responseMs", "to": "2026-01-01"}, "sort"),
    ({"sort": "-responseMs", "from": "2026-01-01", "to": "2026-02-02"}, "sort"),
    ({"sort": "-responseMs", "q": "startedAt:2026-01-01..2026-01-02 OR attempts:1"}, "sort"),
    ({"cursor": "zzz"}, "cursor"),
    ({"from": "yesterday"}, "from"),
    ({"to": "0001-01-01T00:00:00+14:00"}, "to"),
    ({"from": "2026-11-02", "to": "2026-11-01T23:59:59"}, "to"),
    ({"q": "x" * 2001}, "q"),
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


async def test_a_cursor_holds_for_its_own_filter_and_order_only(gateway: Gateway) -> None:
    for minutes in range(2):
        await gateway.add_session(old_id(minutes))
    query = {"q": "status:ACTIVE persona:echo", "limit": 1}
    cursor = (await gateway.get("/api/chat-sessions", **query)).json()["nextCursor"]
    assert len((await gateway.get("/api/chat-sessions", **query, cursor=cursor)).json()["items"]) == 1
    assert (await gateway.get("/api/chat-sessions", **{**query, "limit": 9}, cursor=cursor)).status_code == 200
    for other in (
        {"sort": "startedAt"}, {"offset": 1}, {"q": "status:ACTIVE"}, {"q": "status:ACTIVE persona:slow"},
        {"personaId": "echo"}, {"from": "2026-01-01"},
    ):  # fmt: skip
        refused = await gateway.get("/api/chat-sessions", **{**query, **other}, cursor=cursor)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid-parameter"), other
    theirs = await gateway.get("/api/chat-sessions", BOB, **query, cursor=cursor)
    assert theirs.status_code == 400


async def test_the_slowest_come_first_within_a_range(gateway: Gateway) -> None:
    took = [40, None, 7, 40, 900, None, 7]
    ids = [await gateway.add_session(old_id(minutes), response_ms=ms) for minutes, ms in enumerate(took)]
    await gateway.add_session(UUID(int=old_id().int - (40 * 86_400_000 << 80)), response_ms=9_999)
    since = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    expected = [str(ids[place]) for place in (4, 0, 3, 2, 6, 1, 5)]
    for limit in (1, 2, 3, 7):
        assert await collect(gateway, sort="-responseMs", limit=limit, **{"from": since}) == expected
    answered = expected[:5]
    assert await collect(gateway, sort="-responseMs", limit=2, q=f"startedAt:>={since} responseMs:>0") == answered


INVALID_FILTERS = [
    ("status:FAILED colour:red", 14, "metadata.KEY"),
    ("persona:p OR status:DONE", 20, "COMPLETED"),
    ("timeout", 0, None),
    ("startedAt:2026-11-22", 10, ">=value"),
    ("user:bob", 0, "persona"),
]


async def test_a_filter_that_means_nothing_is_refused_with_its_place(gateway: Gateway) -> None:
    for text, position, allowed in INVALID_FILTERS:
        answer = await gateway.get("/api/chat-sessions", q=text)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-filter"), text
        ProblemDetails.model_validate(answer.json())
        [error] = answer.json()["errors"]
        assert (error["field"], error["position"]) == ("q", position)
        assert answer.json()["detail"].endswith(f" (at position {position})")
        assert allowed is None or allowed in error["allowed"]
        assert "user" not in error.get("allowed", [])


async def test_no_filter_shows_a_user_the_sessions_of_another(gateway: Gateway) -> None:
    mine = await gateway.add_session(old_id(), error_message="mine")
    await gateway.add_session(old_id(), user_id="bob", error_message="theirs")
    for text in ("status:ACTIVE OR status:FAILED", "-status:FAILED", '"mine" OR "theirs"', "NOT persona:none"):
        assert await collect(gateway, q=text) == [str(mine)], text


async def test_an_admin_searches_everyones_sessions(gateway: Gateway) -> None:
    own = str(await gateway.add_session(old_id(3), user_id="root"))
    ada, bob = [str(await gateway.add_session(old_id(), user_id=user)) for user in ("ada", "bob")]

    async def found(**query: str) -> set[str]:
        return {item["sessionId"] for item in (await gateway.get("/api/chat-sessions", ROOT, **query)).json()["items"]}

    assert await found() == await found(q="persona:echo") == {own}
    assert await found(userId="*") == await found(userId="*", q="status:ACTIVE") == {own, ada, bob}
    assert await found(q="user:(ada OR bob)") == {ada, bob}
    assert await found(q="-user:ada") == {own, bob}
    assert await found(q="user:ada", userId="bob") == set()
    refused = await gateway.get("/api/chat-sessions", userId="*")
    assert (refused.status_code, refused.json()["code"]) == (403, "admin-only")


async def test_a_conversations_active_sessions_are_listed(gateway: Gateway) -> None:
    active = await gateway.add_session(old_id(), conversation_id="c-9")
    ended = await gateway.add_session(old_id(), conversation_id="c-9", status=SessionStatus.FAILED)
    await gateway.add_session(old_id(), conversation_id="c-9", user_id="bob")
    path = "/api/conversations/c-9/chat-sessions"
    assert [item["sessionId"] for item in (await gateway.get(path)).json()["items"]] == [str(active)]
    failed = (await gateway.get(path, status="FAILED")).json()
    assert [item["sessionId"] for item in failed["items"]] == [str(ended)]
    assert (await gateway.get(path, ROOT)).json()["total"] == 2
