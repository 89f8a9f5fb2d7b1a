"""Everything about a user, who may read it and have it erased, and what is refused."""

import gzip
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from services.api_gateway import user_data
from services.api_gateway.database import Database
from services.api_gateway.erasures import Erasures
from services.api_gateway.user_data import UserData
from services.contracts import new_id
from services.database.rollups import user_scope
from services.database.tables import (
    audit_log,
    conversations,
    erasure_requests,
    messages,
    session_events,
    session_rollups,
)
from services.runtime.pseudonyms import Pseudonyms
from tests.integration.gateway import (
    ADA,
    BOB,
    ROOT,
    Gateway,
    bearer,
    caught_up_gateway,
    named,
    old_id,
)
from tests.integration.user_data import DATA, ERASED, SECRET, kinds, lines

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    counted = {"completed": 7, "failed": 1, "timeout": 0, "cancelled": 0, "response_ms_sum": 2**40}
    empty = {name: [] for name in ("failure_kinds", "failure_counts", "response_buckets", "response_counts")}
    rollup = {"granularity": "day", "scope": user_scope("ada"), "shard": 0, "bucket": day, "active": 0}
    await gateway.execute(insert(session_rollups).values(**rollup, **counted, **empty))
    await gateway.http.get("/api/personas", headers=ADA)  # refused, and an act of hers
    told = await lines(gateway)
    assert kinds(told) == {"user": 1, "conversation": 7, "session": 8, "message": 16, "event": 24, "day": 1, "act": 1}
    [told_day] = [line for line in told if line["kind"] == "day"]
    assert {told_day[name] for name in ("completed", "failed", "responseMsSum")} == {7, 1, 2**40}, "numbers"
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


async def test_without_a_key_a_conversation_is_nobodys_afterwards(any_broker: str, postgres_url: str) -> None:
    async with caught_up_gateway(any_broker, postgres_url, user_hash_key=None) as gateway:
        row = {"conversation_id": "c-1", "user_id": Pseudonyms(None).erased("ada")}
        await gateway.execute(insert(conversations).values(row))
        for headers in (ADA, BOB):
            assert (await gateway.send("c-1", headers)).status_code == 404
        unnamed = Erasures(Database(gateway.engine), Pseudonyms(None))
        assert await unnamed.conversations_after("ada", None) == []
