"""The audit log as admins read it, and what the gateway writes into it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from services.api_gateway.answer_models import AuditList
from services.contracts import SessionStatus
from services.contracts.ids import new_id
from services.contracts.topics import CONTROL
from services.database.audit import ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.partitions import months_ahead
from services.database.tables import audit_log
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, named, ready, running_gateway, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime.now(UTC)
NEXT_MONTH = list(months_ahead(NOW))[1]


async def pages(gateway: Gateway, **query: object) -> list[dict[str, Any]]:
    """Every entry, two at a time."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, object] = {}
    while True:
        answer = await gateway.get("/api/audit", ROOT, **query, limit=2, **cursor)
        assert answer.status_code == 200, answer.text
        page = AuditList.model_validate(answer.json())
        found += answer.json()["items"]
        if page.next_cursor is None:
            return found
        cursor = {"cursor": page.next_cursor}


async def fill(gateway: Gateway) -> list[dict[str, Any]]:
    """Write entries of this month and of the next, several at the same moment; return them, the newest first."""
    entries = [
        {**entry(kind, actor, action, target or f"t-{n}", outcome), "at": at + timedelta(seconds=n // 2)}
        for at in (NOW, NEXT_MONTH)
        for n, (kind, actor, action, outcome, target) in enumerate(
            [
                (ActorKind.ADMIN, "root", "persona.put", "done", None),
                (ActorKind.USER, named("ada"), "persona.put", "refused", None),
                (ActorKind.SERVICE, "billing", "session.cancel", "asked", None),
                (ActorKind.SYSTEM, "webhook-dispatcher", "webhook.call", "failed", None),
                (ActorKind.ADMIN, "root", "session.export", "done", f"user:{named('ada')}"),
                (ActorKind.ADMIN, "root", "session.export", "done", f"user:{named('bob')}"),
            ]
        )
    ]
    await gateway.execute(insert(audit_log).values(entries))
    return sorted(entries, key=lambda one: (one["at"], one["id"].int), reverse=True)


async def test_it_is_read_by_cursor_through_all_months_and_by_filter(gateway: Gateway) -> None:
    entries = await fill(gateway)
    ids = [str(one["id"]) for one in entries]
    assert [item["id"] for item in await pages(gateway)] == ids
    for query, chosen in [
        ({"actor": "root"}, lambda one: one["actor"] == "root"),
        ({"userId": "ada"}, lambda one: named("ada") in one["actor"] + one["target"]),
        ({"action": "persona.put"}, lambda one: one["action"] == "persona.put"),
        ({"outcome": "failed"}, lambda one: one["outcome"] == "failed"),
        ({"from": NEXT_MONTH.isoformat()}, lambda one: one["at"] >= NEXT_MONTH),
        ({"to": NEXT_MONTH.isoformat()}, lambda one: one["at"] < NEXT_MONTH),
        ({"actor": "nobody"}, lambda one: False),
        ({"actor": "root", "userId": "ada"}, lambda one: one["target"] == f"user:{named('ada')}"),
        ({"actor": "billing", "userId": "ada"}, lambda one: False),
    ]:  # fmt: skip
        assert [item["id"] for item in await pages(gateway, **query)] == [
            str(one["id"]) for one in entries if chosen(one)
        ], query


async def test_entries_of_former_releases_are_found_by_what_their_actions_are_called_now(gateway: Gateway) -> None:
    for action in ("cleanup", "sessions:read"):
        row = {**entry(ActorKind.ADMIN, "root", "persona.put", "t", "refused"), "action": action}
        await gateway.execute(insert(audit_log).values(row))

    async def found(action: str) -> list[str]:
        return [item["action"] for item in await pages(gateway, action=action)]

    assert await found("cleanup.start") == ["cleanup"]
    assert await found("session.get") == await found("session.export") == ["sessions:read"]
    assert await found("persona.put") == []


@pytest.mark.parametrize(
    "query",
    [
        {"action": "cleanup"},
        {"action": "persona"},
        {"outcome": "DONE"},
        {"cursor": "x"},
        {"cursor": "f39_" * 8},
        {"limit": "0"},
        {"who": "a"},
        {"from": "x"},
        {"from": "2026-11-02", "to": "2026-11-01"},
    ],
    ids=str,
)
async def test_a_wrong_parameter_is_refused(gateway: Gateway, query: dict[str, str]) -> None:
    answer = await gateway.get("/api/audit", ROOT, **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")


async def test_a_wrong_word_is_told_the_right_ones(gateway: Gateway) -> None:
    for name, words in (("action", Action), ("outcome", Outcome)):
        answer = await gateway.get("/api/audit", ROOT, **{name: "nothing"})
        assert answer.json()["detail"] == f"{name}: It must be one of {', '.join(words)}."


async def test_a_refusal_by_scope_has_the_action_of_its_call(gateway: Gateway) -> None:
    session = f"/api/chat-sessions/{new_id()}"
    calls = {
        ("POST", "/api/conversations/c/messages"): "message.send",
        ("POST", f"{session}/retry"): "session.retry",
        ("PATCH", f"{session}/cancel"): "session.cancel",
        ("GET", "/api/chat-sessions"): "session.list",
        ("GET", "/api/conversations/c/chat-sessions"): "session.list",
        ("GET", session): "session.get",
        ("GET", f"{session}/events"): "session.get",
        ("GET", f"{session}/live"): "session.live",
        ("GET", "/api/chat-sessions/live"): "session.live",
        ("GET", "/api/chat-sessions/export"): "session.export",
        ("GET", "/api/chat-sessions/stats"): "stats.read",
    }
    for number, (method, path) in enumerate(calls):
        # Of refusals of one actor that are alike only the first has an entry.
        headers = {"authorization": f"Bearer {token('ada', act={'sub': f's-{number}'}, scope='audit:read')}"}
        assert (await gateway.http.request(method, path, headers=headers)).status_code == 403
    rows = sorted(await gateway.rows(audit_log), key=lambda row: int(row.actor[2:]))
    assert [row.action for row in rows] == list(calls.values())
    assert {(row.outcome, row.details["why"]) for row in rows} == {("refused", "insufficient-scope")}


async def test_a_flood_of_refusals_is_one_entry_and_a_count(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url) as gateway:
        await ready(gateway)
        answers = await asyncio.gather(*(gateway.http.delete("/api/personas/p", headers=ADA) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {403}
        [first] = await gateway.rows(audit_log)
        assert (first.actor, first.outcome) == (named("ada"), "refused")
    # The gateway has stopped: what it had counted is written.
    async with running_gateway(any_broker, postgres_url) as later:
        [count] = [row for row in await later.rows(audit_log) if row.id != first.id]
    assert (count.actor, count.action, count.details) == (named("ada"), "persona.delete", {"repeated": 39})


async def test_a_cancel_of_what_is_not_ones_own_is_a_refused_act(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    await gateway.folded(datetime.now(UTC) + timedelta(days=1))
    refused = await gateway.http.patch(f"/api/chat-sessions/{session_id}/cancel", headers=BOB)
    assert refused.status_code == 404
    [row] = await gateway.rows(audit_log)
    assert (row.actor, row.action, row.target) == (named("bob"), "session.cancel", str(session_id))
    assert (row.outcome, row.details) == ("refused", {"why": "no-such-session"})


async def test_a_service_stands_there_by_name_with_the_user_it_acted_for(gateway: Gateway) -> None:
    conversation = f"c-{new_id()}"
    session_id = await gateway.add_session(conversation_id=conversation)
    service = {"authorization": f"Bearer {token('ada', act={'sub': 'billing'}, scope='sessions:cancel')}"}
    async with gateway.log_of(CONTROL, conversation) as log:
        cancelling = asyncio.create_task(gateway.http.patch(f"/api/chat-sessions/{session_id}/cancel", headers=service))
        await log.next()
        await gateway.end_session(session_id, SessionStatus.CANCELLED)
        assert (await cancelling).status_code == 200
    [row] = await gateway.rows(audit_log)
    assert (row.actorKind, row.actor, row.outcome) == ("service", "billing", "asked")
    assert (row.address, row.details) == ("127.0.0.1", {"for": named("ada")})
