"""Templates: versions that never change, what they make of messages, and whom they are kept from."""

import asyncio
import csv
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import update

from services.api_gateway.answer_models import Session
from services.api_gateway.template_answers import Template, TemplateList
from services.contracts import MessageSent, SessionStatus
from services.contracts.policy import CallPolicy
from services.contracts.topics import MESSAGES
from services.database.tables import audit_log, idempotency_keys, template_versions
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, ready, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIP = {
    "personaId": "p",
    "callPolicy": {"timeoutSeconds": 30, "maxAttempts": 1},
    "metadata": {"channel": "web", "plan": "gold"},
    "tags": ["vip", "web"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(any_broker, module_postgres_url, egress_allow_cidrs="192.0.2.0/24") as gateway:
        await ready(gateway)
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(gateway: Gateway) -> Gateway:
    """The gateway that all share, emptied, with two personas."""
    for persona in ("p", "q"):
        webhook = {"webhookUrl": "https://192.0.2.1/w"}
        assert (await gateway.http.put(f"/api/personas/{persona}", headers=ROOT, json=webhook)).status_code == 200
    return gateway


async def put(gateway: Gateway, template_id: str = "vip", **changes: object) -> httpx.Response:
    return await gateway.http.put(f"/api/templates/{template_id}", headers=ROOT, json={**VIP, **changes})


async def delete(gateway: Gateway, template_id: str = "vip") -> httpx.Response:
    return await gateway.http.delete(f"/api/templates/{template_id}", headers=ROOT)


async def get(gateway: Gateway, path: str, **query: object) -> Any:
    answer = await gateway.get(f"/api/templates{path}", ROOT, **query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def send(gateway: Gateway, conversation: str, headers: dict[str, str] = ADA, **body: object) -> httpx.Response:
    path = f"/api/conversations/{conversation}/messages"
    return await gateway.http.post(path, headers=headers, json={"message": "hello", **body})


async def sent(gateway: Gateway, conversation: str, **body: object) -> MessageSent:
    """The event that a message becomes."""
    async with gateway.log_of(MESSAGES, conversation) as log:
        answer = await send(gateway, conversation, **body)
        assert answer.status_code == 202, answer.text
        event = await log.next()
    assert isinstance(event, MessageSent)
    assert answer.json()["personaId"] == event.persona_id
    return event


async def test_each_put_makes_a_version_and_none_ever_changes(gateway: Gateway) -> None:
    first = (await put(gateway)).json()
    Template.model_validate(first)
    assert (first["version"], first["createdBy"]) == (1, "root")
    assert {name: first[name] for name in VIP} == VIP
    assert (await put(gateway)).json() == first
    second = (await put(gateway, tags=[])).json()
    assert second["version"] == 2
    assert (await put(gateway)).json()["version"] == 3
    assert await get(gateway, "/vip/versions/1") == first
    assert await get(gateway, "/vip/versions/2") == second
    assert (await get(gateway, "/vip"))["version"] == 3
    actions = [(e.action, e.target, e.details) for e in await gateway.rows(audit_log) if "template" in e.action]
    assert actions == [("template.put", "vip", {"version": version}) for version in (1, 1, 2, 3)]


async def test_templates_and_versions_are_listed_by_pages(gateway: Gateway) -> None:
    for name in ("b", "a", "c"):
        for tag in ("one", "two"):
            await put(gateway, name, tags=[tag])
    page = await get(gateway, "", limit=2)
    TemplateList.model_validate(page)
    rest = await get(gateway, "", limit=2, cursor=page["nextCursor"])
    assert [(one["templateId"], one["version"]) for one in page["items"] + rest["items"]] == [
        ("a", 2),
        ("b", 2),
        ("c", 2),
    ]
    assert rest["nextCursor"] is None
    newest = await get(gateway, "/a/versions", limit=1)
    TemplateList.model_validate(newest)
    oldest = await get(gateway, "/a/versions", limit=1, cursor=newest["nextCursor"])
    assert [one["items"][0]["tags"] for one in (newest, oldest)] == [["two"], ["one"]]
    assert oldest["nextCursor"] is None


async def test_puts_at_once_make_a_version_each(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(put(gateway, tags=[f"t{number}"]) for number in range(8)))
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 9))
    latest = await get(gateway, "/vip")
    assert latest in [answer.json() for answer in answers]
    assert latest["version"] == 8


async def test_a_message_is_made_of_the_version_that_it_names_or_of_the_latest(gateway: Gateway) -> None:
    await put(gateway)
    event = await sent(gateway, "c-1", templateId="vip")
    assert (event.persona_id, event.template_id, event.template_version) == ("p", "vip", 1)
    assert event.call_policy == CallPolicy(timeout_seconds=30, max_attempts=1)
    own = {name: value for name, value in event.metadata.items() if name not in {"ipAddress", "userAgent"}}
    assert own == {"channel": "web", "plan": "gold", "tags": ["vip", "web"]}

    await put(gateway, personaId="q", callPolicy={}, metadata={}, tags=["new"])
    event = await sent(gateway, "c-2", templateId="vip", personaId="q", metadata={"plan": "iron", "tags": ["own"]})
    assert (event.persona_id, event.template_version, event.call_policy) == ("q", 2, None)
    assert (event.metadata["plan"], event.metadata["tags"]) == ("iron", ["new", "own"])
    event = await sent(gateway, "c-3", templateId="vip", templateVersion=1, metadata={"plan": "iron", "tags": "mine"})
    assert (event.persona_id, event.template_version) == ("p", 1)
    assert (event.metadata["plan"], event.metadata["channel"], event.metadata["tags"]) == ("iron", "web", "mine")
    event = await sent(gateway, "c-4", personaId="p")
    assert (event.template_id, event.template_version, event.call_policy) == (None, None, None)
    assert "tags" not in event.metadata


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"templateId": "nobody"}, 404, "no-such-template"),
        ({"templateId": "vip", "templateVersion": 2}, 404, "no-such-template"),
        ({"templateId": "vip", "templateVersion": 0}, 400, "invalid-body"),
        ({"templateId": "vip", "personaId": "q"}, 409, "other-persona"),
        ({"personaId": "p", "templateVersion": 1}, 400, "invalid-body"),
        ({}, 400, "invalid-body"),
        ({"templateId": ""}, 400, "id-size"),
        ({"templateId": "vip", "metadata": {"x": "x" * 8150}}, 400, "too-large"),
    ],
)
async def test_a_message_that_cannot_be_made_is_refused(
    gateway: Gateway, body: dict[str, object], status: int, code: str
) -> None:
    await put(gateway)
    async with gateway.log_of(MESSAGES, "c-refused") as log:
        answer = await send(gateway, "c-refused", **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert await log.is_silent()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"personaId": ""}, "body"),
        ({"callPolicy": {"timeoutSeconds": 301}}, "callPolicy.timeoutSeconds"),
        ({"callPolicy": {"timeout": 3}}, "callPolicy.timeout"),
        ({"callPolicy": {"maxAttempts": 0}}, "callPolicy.maxAttempts"),
        ({"metadata": {"tags": ["a"]}}, "body"),
        ({"metadata": {"a": "\0"}}, "body"),
        ({"metadata": {"a": "a" * 8192}}, "body"),
        ({"tags": [""]}, "tags.0"),
        ({"tags": ["a\0b"]}, "body"),
        ({"tags": ["a"] * 21}, "tags"),
        ({"timeoutSeconds": 3}, "timeoutSeconds"),
    ],
)
async def test_a_wrong_template_is_refused(gateway: Gateway, changes: dict[str, object], field: str) -> None:
    answer = await put(gateway, **changes)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field), answer.text
    assert await gateway.rows(template_versions) == []


async def test_a_deleted_template_makes_no_message_and_goes_on_with_its_next_version(gateway: Gateway) -> None:
    assert (await delete(gateway)).json()["code"] == "no-such-template"
    first = (await put(gateway)).json()
    assert (await delete(gateway)).status_code == 204
    for answer in (
        await send(gateway, "c-1", templateId="vip"),
        await send(gateway, "c-1", templateId="vip", templateVersion=1),
        await gateway.get("/api/templates/vip", ROOT),
        await delete(gateway),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-template")
    assert (await get(gateway, ""))["items"] == []
    assert (await get(gateway, "/vip/versions"))["items"] == [first] == [await get(gateway, "/vip/versions/1")]
    assert (await put(gateway)).json()["version"] == 2
    assert (await sent(gateway, "c-1", templateId="vip")).template_version == 2


async def test_what_is_not_there_is_404(gateway: Gateway) -> None:
    await put(gateway)
    nobody = (await put(gateway, "other", personaId="no body")).json()
    assert nobody["code"] == "no-such-persona"
    assert nobody["detail"] == "There is no persona 'no body'; PUT /api/personas/no%20body makes it."
    for path in (
        "nobody",
        "nobody/versions",
        "nobody/versions/1",
        "vip/versions/2",
        "vip/versions/x",
        "vip/versions/0",
    ):
        answer = await gateway.get(f"/api/templates/{path}", ROOT)
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-template"), path
    for path, detail in [
        ("nobody/versions/1", "There is no template 'nobody'."),
        ("vip/versions/2", "Template 'vip' has no version 2."),
        ("vip/versions/x", "Template 'vip' has no version of this name."),
    ]:
        assert (await gateway.get(f"/api/templates/{path}", ROOT)).json()["detail"] == detail
    for template, detail in [("nobody", "There is no template 'nobody'."), ("vip", "Template 'vip' has no version 2.")]:
        assert (await send(gateway, "c-1", templateId=template, templateVersion=2)).json()["detail"] == detail
    assert (await gateway.get("/api/templates/vip/versions", ROOT, cursor=0)).status_code == 400


async def test_the_repeat_of_a_key_is_made_of_the_same_version(gateway: Gateway) -> None:
    await put(gateway)
    keyed = {**ADA, "idempotency-key": "k"}
    async with gateway.log_of(MESSAGES, "c-key") as log:
        first = await send(gateway, "c-key", keyed, templateId="vip")
        event = await log.next()
        await put(gateway, personaId="q", tags=["other"])
        await gateway.published_keys(1)
        # As if Kafka had not acknowledged it.
        a_while_ago = datetime.now(UTC) - timedelta(seconds=6)
        await gateway.execute(update(idempotency_keys).values(published_at=None, sent_at=a_while_ago))
        again = await send(gateway, "c-key", keyed, templateId="vip")
        assert await log.next() == event
        await delete(gateway)
        assert [answer.json() for answer in (again, await send(gateway, "c-key", keyed, templateId="vip"))] == [
            first.json()
        ] * 2
        assert (await send(gateway, "c-key", templateId="vip")).status_code == 404


async def test_sessions_are_found_and_exported_by_template_version_and_tag(gateway: Gateway) -> None:
    one, two, other = [
        await gateway.add_session(status=SessionStatus.COMPLETED, ended_at=datetime.now(UTC), **columns)
        for columns in (
            {"template_id": "vip", "template_version": 1, "metadata": {"tags": ["vip", "web"]}},
            {"template_id": "vip", "template_version": 2, "metadata": {"tags": ["web"]}},
            {"metadata": {"tags": "web"}},
        )
    ]
    for query, expected in {
        "template:vip templateVersion:1": {one},
        "templateVersion:>1": {two},
        "-templateVersion:1": {two, other},
        "tag:vip": {one},
        "tag:(vip OR web)": {one, two, other},
        "-tag:vip template:vip": {two},
    }.items():
        items = (await gateway.get("/api/chat-sessions", q=query)).json()["items"]
        assert {item["sessionId"] for item in items} == {str(session_id) for session_id in expected}, query
        for item in items:
            Session.model_validate(item)
    exported = (await gateway.get("/api/chat-sessions/export", format="csv", q="template:vip", sort="startedAt")).text
    assert [row["templateVersion"] for row in csv.DictReader(exported.splitlines())] == ["1", "2"]


async def test_templates_are_for_admins_and_their_contents_for_nobody_else(gateway: Gateway) -> None:
    await put(gateway)
    refused = await gateway.http.put("/api/templates/vip", headers=BOB, json=VIP)
    assert (refused.status_code, refused.json()["code"]) == (403, "admin-only")
    # Users name them all the same.
    assert (await send(gateway, "c-bob", BOB, templateId="vip")).status_code == 202
    assert "gold" not in (await send(gateway, "c-bob", BOB, templateId="vip", personaId="q")).text


async def test_while_postgres_is_away_only_messages_that_name_a_template_wait(any_broker: str) -> None:
    nowhere = "postgresql+asyncpg://chat_sessions@/chat_sessions?host=/nowhere"
    async with running_gateway(any_broker, nowhere) as gateway:
        await ready(gateway)
        answer = await send(gateway, "c-away", templateId="vip")
        assert (answer.status_code, answer.json()["code"]) == (503, "database-away")
        assert (await send(gateway, "c-away", personaId="p")).status_code == 202
