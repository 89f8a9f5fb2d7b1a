"""Sending messages: what is accepted, what is refused, and what is published."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import insert, update

from services.api_gateway.database import Database
from services.api_gateway.idempotency import PURGED_AT_ONCE, IdempotencyKeys
from services.contracts import MessageSent, SessionStatus, new_id
from services.contracts.ids import id_time
from services.contracts.topics import MESSAGES
from services.database.engine import build_engine
from services.database.tables import conversations, idempotency_keys, messages
from tests.integration.gateway import ADA, BOB, Gateway, ready, running_gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(broker, module_postgres_url, rate_limit_messages=0, rate_limit_persona=0) as gateway:
        await ready(gateway)
        yield gateway


async def test_a_message_is_published_as_it_was_sent_and_answered_202(gateway: Gateway) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {**ADA, "traceparent": trace, "user-agent": "tests/1", "sec-ch-ua": '"Tests";v="1"'}
    async with gateway.log_of(MESSAGES, "c-log-0") as log:
        answer = await gateway.send("c-log-0", headers, message="zdravo \U0001f44b", metadata={"k": [1, None]})
        record = await log.next_record()
    assert answer.status_code == 202
    body = answer.json()
    event = MessageSent.model_validate_json(record.value)
    assert (str(event.session_id), event.session_id.version) == (body["sessionId"], 7)
    assert datetime.fromisoformat(body["startedAt"]) == id_time(event.session_id)
    assert body | {"sessionId": "", "startedAt": ""} == {
        "sessionId": "",
        "startedAt": "",
        "conversationId": "c-log-0",
        "personaId": "echo",
        "status": "ACTIVE",
    }
    assert answer.headers["location"] == f"/api/chat-sessions/{body['sessionId']}"
    assert (event.user_id, event.message) == ("ada", "zdravo \U0001f44b")
    assert event.metadata == {
        "k": [1, None],
        "ipAddress": "127.0.0.1",
        "userAgent": "tests/1",
        "deviceInfo": '"Tests";v="1"',
    }
    told = dict(record.headers)
    assert record.key == b"c-log-0"
    assert told["ce_type"] == b"chat.MessageSent.v1"
    assert told["traceparent"].decode().split("-")[1] == trace.split("-")[1]


async def test_a_body_is_json_whatever_its_type_says(gateway: Gateway) -> None:
    raw = b'{"personaId": "echo", "message": "hello"}'
    for content_type in ("application/x-www-form-urlencoded", "text/plain", ""):
        headers = {**ADA, "content-type": content_type}
        answer = await gateway.http.post("/api/conversations/c-1/messages", headers=headers, content=raw)
        assert answer.status_code == 202


async def test_a_client_cannot_choose_its_address(gateway: Gateway) -> None:
    headers = {**ADA, "x-forwarded-for": "203.0.113.9"}
    async with gateway.log_of(MESSAGES, "c-log-1") as log:
        await gateway.send("c-log-1", headers, metadata={"ipAddress": "203.0.113.9", "userAgent": "mine"})
        event = await log.next()
    assert isinstance(event, MessageSent)
    assert event.metadata["ipAddress"] == "127.0.0.1"
    assert event.metadata["userAgent"] == "mine"


FITS = "x" * (32 * 1024)
OUT_OF_BOUNDS: list[tuple[dict[str, object], str, str]] = [
    ({"message": FITS + "x"}, "too-large", "message"),
    ({"message": "\u00e9" * (16 * 1024 + 1)}, "too-large", "message"),
    ({"message": ""}, "invalid-body", "message"),
    ({"message": 5}, "invalid-body", "message"),
    ({"message": None}, "invalid-body", "message"),
    ({"message": "a\0b"}, "characters", "message"),
    ({"personaId": "p" * 129}, "id-size", "personaId"),
    ({"personaId": ""}, "id-size", "personaId"),
    ({"metadata": {"x": "y" * 8192}}, "too-large", "metadata"),
    ({"metadata": []}, "invalid-body", "metadata"),
    ({"metadata": {"a\0": 1}}, "characters", "metadata"),
    ({"templateId": "t" * 129}, "id-size", "templateId"),
    ({"userId": "bob"}, "invalid-body", "userId"),
]


async def test_a_body_out_of_bounds_is_refused_by_name(gateway: Gateway) -> None:
    for body, code, field in OUT_OF_BOUNDS:
        answer = await gateway.send(**body)
        assert (answer.status_code, answer.json()["code"]) == (400, code), body
        assert answer.json()["errors"][0]["field"] == field


async def test_a_body_at_its_bounds_is_accepted(gateway: Gateway) -> None:
    metadata = {"x": "y" * (8192 - len('{"x":""}'))}
    answer = await gateway.send("c" * 128, message=FITS, personaId="p" * 128, metadata=metadata)
    assert answer.status_code == 202


NO_MESSAGES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"personaId":"p","message":"\\ud800"}',
    b'{"personaId":"p","message":"m","metadata":{"x":NaN}}',
    b'{"personaId":"p","message":"m","metadata":{"x":' + b"9" * 5000 + b"}}",
    b'{"personaId":"p","message":"m","metadata":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}",
    b'{"personaId":"p","message":"\xff"}',
]


async def test_what_is_no_usable_json_is_refused(gateway: Gateway) -> None:
    for raw in NO_MESSAGES:
        answer = await gateway.http.post("/api/conversations/c-1/messages", headers=ADA, content=raw)
        assert answer.status_code == 400, raw[:100]
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("conversation", ["c" * 129, "a%00b"])
async def test_a_conversation_id_out_of_bounds_is_refused(gateway: Gateway, conversation: str) -> None:
    answer = await gateway.send(conversation)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "conversationId")
    assert answer.json()["detail"].startswith(("conversationId: It has 129 characters", "conversationId: It contains"))


async def test_a_conversation_id_may_have_slashes(gateway: Gateway) -> None:
    sent = await gateway.send("teams%2Fsupport")
    assert (sent.status_code, sent.json()["conversationId"]) == (202, "teams/support")
    assert (await gateway.get("/api/conversations/teams%2Fsupport/chat-sessions")).status_code == 200
    metrics = (await gateway.http.get("/metrics")).text
    assert 'route="/api/conversations/{conversationId}/messages"' in metrics


async def test_a_body_over_256_kib_is_refused_before_it_is_read(gateway: Gateway) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    declared = await gateway.http.post("/api/conversations/c/messages", headers=ADA, content=b"x" * (256 * 1024 + 1))
    assert (declared.status_code, declared.json()["code"]) == (413, "body-too-large")
    assert declared.json()["title"] == "Content Too Large"
    chunked = await gateway.http.post("/api/conversations/c/messages", headers=ADA, content=endless())
    assert (chunked.status_code, chunked.json()["code"]) == (413, "body-too-large")


async def test_a_conversation_belongs_to_the_first_who_wrote_in_it(gateway: Gateway) -> None:
    assert (await gateway.send("c-own", ADA)).status_code == 202
    refused = await gateway.send("c-own", BOB)
    assert (refused.status_code, refused.json()["code"]) == (404, "no-such-conversation")
    assert refused.json()["detail"] == "You have no conversation with this id; choose another id."
    assert (await gateway.send("c-own", ADA)).status_code == 202
    await gateway.execute(insert(conversations).values(conversation_id="c-bob", user_id="bob"))
    assert (await gateway.send("c-bob", ADA)).status_code == 404


async def test_of_many_first_messages_at_once_one_user_wins(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.send("c-race", ADA if n % 2 else BOB) for n in range(20)))
    owner = {row.userId for row in await gateway.rows(conversations) if row.conversationId == "c-race"}
    assert len(owner) == 1
    winners = {n % 2 for n, answer in enumerate(answers) if answer.status_code == 202}
    assert winners == {1 if owner == {"ada"} else 0}


def keyed(key: str = "k-1", headers: dict[str, str] = ADA) -> dict[str, str]:
    return {**headers, "idempotency-key": key}


async def test_a_repeated_key_is_the_same_session_and_published_once(gateway: Gateway) -> None:
    async with gateway.log_of(MESSAGES, "c-log-2") as log:
        first = await gateway.send("c-log-2", keyed())
        again = await gateway.send("c-log-2", keyed())
        await log.next()
        assert await log.is_silent()
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    [row] = await gateway.published_keys(1)
    assert str(row.sessionId) == first.json()["sessionId"]


async def test_a_key_belongs_to_one_request_of_one_user(gateway: Gateway) -> None:
    first = await gateway.send("c-1", keyed())
    for answer in (await gateway.send("c-1", keyed(), message="other"), await gateway.send("c-2", keyed())):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    other = await gateway.send("c-bob", keyed(headers=BOB))
    assert other.status_code == 202
    assert other.json()["sessionId"] != first.json()["sessionId"]


async def test_of_many_repeats_at_once_one_is_published(gateway: Gateway) -> None:
    async with gateway.log_of(MESSAGES, "c-log-3") as log:
        answers = await asyncio.gather(*(gateway.send("c-log-3", keyed("k-race")) for _ in range(20)))
        await log.next()
        assert await log.is_silent()
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["sessionId"] for answer in answers if answer.status_code == 202}) == 1


async def test_many_keys_at_once_are_each_their_own(gateway: Gateway) -> None:
    pairs = [(f"k-{number}", ADA if number % 2 else BOB) for number in range(40)]
    asked = [gateway.send(f"c-{h is ADA}", keyed(key, h), message=key) for key, h in [*pairs, *reversed(pairs)]]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} <= {202, 409}
    rows = {str(row.sessionId) for row in await gateway.published_keys(len(pairs))}
    assert {answer.json()["sessionId"] for answer in answers if answer.status_code == 202} == rows


async def test_an_unpublished_repeat_waits_and_then_sends_the_identical_event(gateway: Gateway) -> None:
    async with gateway.log_of(MESSAGES, "c-log-4") as log:
        await gateway.send("c-log-4", keyed())
        original = await log.next()
        await gateway.published_keys(1)
        await gateway.execute(update(idempotency_keys).values(published_at=None))
        # The gateway itself knows a moment longer that it was published.
        early = await until(lambda: gateway.send("c-log-4", keyed()), lambda answer: answer.status_code == 409)
        assert early.json()["code"] == "request-under-way"
        assert early.headers["retry-after"] == "5"
        await gateway.execute(update(idempotency_keys).values(sent_at=datetime.now(UTC) - timedelta(seconds=6)))
        answers = await asyncio.gather(*(gateway.send("c-log-4", keyed()) for _ in range(10)))
        assert await log.next() == original
        assert await log.is_silent()
    assert 202 in {answer.status_code for answer in answers} <= {202, 409}


async def test_a_key_is_free_again_after_a_day(gateway: Gateway) -> None:
    first = await gateway.send("c-1", keyed())
    day_ago = datetime.now(UTC) - timedelta(hours=24, seconds=1)
    await gateway.execute(update(idempotency_keys).values(created_at=day_ago))
    other = await gateway.send("c-1", keyed(), message="other")
    assert other.status_code == 202
    assert other.json()["sessionId"] != first.json()["sessionId"]


async def test_old_keys_are_purged_however_many(gateway: Gateway, module_postgres_url: str) -> None:
    now, old = datetime.now(UTC), PURGED_AT_ONCE + 1
    ids = {"body_hash": b"", "session_id": new_id(), "event_id": new_id(), "sent_at": now}
    ages = [*([timedelta(hours=24, seconds=1)] * old), timedelta(hours=23)]
    rows = [
        {"user_id": "u", "key": str(number), "route": "POST", "created_at": now - age, **ids}
        for number, age in enumerate(ages)
    ]
    await gateway.execute(insert(idempotency_keys), rows)
    engine = build_engine(module_postgres_url, pre_ping=False)
    keys = IdempotencyKeys(Database(engine))
    assert sum(await asyncio.gather(keys.purge(now), keys.purge(now))) == old
    await engine.dispose()
    assert [row.key for row in await gateway.rows(idempotency_keys)] == [str(old)]


@pytest.mark.parametrize("key", ["", "k" * 129])
async def test_a_key_out_of_bounds_is_refused(gateway: Gateway, key: str) -> None:
    answer = await gateway.send("c-1", keyed(key))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Idempotency-Key")


async def test_a_wait_answers_200_with_the_reply_when_the_session_ends(gateway: Gateway) -> None:
    async with gateway.log_of(MESSAGES, "c-log-5") as log:
        sending = asyncio.create_task(gateway.send("c-log-5", wait=20))
        event = await log.next()
    assert isinstance(event, MessageSent)
    await gateway.add_session(event.session_id)
    row = {"id": new_id(), "chat_session_id": event.session_id, "role": "persona", "created_at": datetime.now(UTC)}
    await gateway.execute(insert(messages).values(**row, content="You said: hello"))
    await gateway.end_session(event.session_id, SessionStatus.COMPLETED, response_ms=12)
    answer = await sending
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["reply"]) == ("COMPLETED", "You said: hello")
    assert UUID(answer.json()["sessionId"]) == event.session_id


async def test_a_wait_that_is_over_answers_202(gateway: Gateway) -> None:
    answer = await gateway.send("c-1", wait=0.3)
    assert (answer.status_code, answer.json()["status"]) == (202, "ACTIVE")


async def test_a_wrong_query_is_refused(gateway: Gateway) -> None:
    body = {"personaId": "echo", "message": "hello"}
    for query in ("wait=61", "wait=-1", "wait=x", "wait=nan", "wait=1&wait=2", "weight=1"):
        answer = await gateway.http.post(f"/api/conversations/c/messages?{query}", headers=ADA, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter"), query
