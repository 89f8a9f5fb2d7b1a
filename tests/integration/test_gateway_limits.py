"""What is too much: heads, bodies, work at the same time, and what pages of other sites may do."""

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import text

from services.api_gateway import shedding
from services.contracts import SessionStatus
from services.runtime import http_protocol
from services.runtime.http_protocol import MAX_HEAD_BYTES
from tests.integration.gateway import ADA, BOB, Gateway, ready, running_gateway, until
from tests.patience import PATIENT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAFE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LISTING = "/api/chat-sessions"


async def raw(gateway: Gateway, *parts: bytes) -> bytes:
    """Send bytes over a connection of their own, and return all that comes until the gateway closes it."""
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    try:
        async with asyncio.timeout(PATIENT_SECONDS):
            return await reader.read()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def busy_database(gateway: Gateway) -> AsyncIterator[None]:
    """While it is entered, reads of sessions wait in PostgreSQL."""
    async with gateway.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE"))
        yield


async def in_hand(gateway: Gateway, count: int) -> None:
    await until(
        lambda: gateway.http.get("/metrics"), lambda answer: f"chat_http_requests_in_hand {count:.1f}" in answer.text
    )


async def test_every_answer_has_the_headers_that_keep_it_safe(gateway: Gateway) -> None:
    for path in (LISTING, "/nowhere", "/health/live", "/openapi.json", "/metrics"):
        answer = await gateway.get(path)
        assert {name: answer.headers[name] for name in SAFE} == SAFE, path
        assert "strict-transport-security" not in answer.headers


async def test_the_docs_run_their_own_script_and_no_other(gateway: Gateway) -> None:
    page = await gateway.http.get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert len(hashes) == 1
    assert policy["script-src"] == f"'self' 'sha256-{hashes.pop()}'"
    assert policy["default-src"] == "'none'"
    assert not re.search(r'(src|href)="(?!/)', page.text)


async def test_hsts_and_other_origins_are_for_the_operator_to_allow(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(
        any_broker, postgres_url, hsts_seconds=60, cors_origins="https://chat.example"
    ) as gateway:
        for origin, allowed in [("https://chat.example", True), ("https://evil.example", False)]:
            answer = await gateway.get(LISTING, {**ADA, "origin": origin})
            assert answer.headers["strict-transport-security"] == "max-age=60"
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
            ask = {"origin": origin, "access-control-request-method": "PATCH"}
            asked = await gateway.http.options(
                LISTING, headers={**ask, "access-control-request-headers": "authorization"}
            )
            assert (asked.status_code == 200) is allowed
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live?q=" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: a\r\nx: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * (MAX_HEAD_BYTES // 4) + b"\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 4 * MAX_HEAD_BYTES,
        b"GET /" + b"x" * 4 * MAX_HEAD_BYTES,
    ],
    ids=["url", "header", "many headers", "a header without an end", "a url without an end"],
)
async def test_a_large_head_is_431(gateway: Gateway, head: bytes) -> None:
    answer = await raw(gateway, *(head[at : at + 8192] for at in range(0, len(head), 8192)))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "head-too-large"' in answer


async def test_a_head_within_the_bound_is_served_also_after_others(gateway: Gateway) -> None:
    padded = b"GET /health/live HTTP/1.1\r\nhost: a\r\nx: " + b"x" * (MAX_HEAD_BYTES - 1024) + b"\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answer = await raw(gateway, padded, padded[:100], padded[100:], last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_what_is_no_http_is_a_problem_too(gateway: Gateway) -> None:
    answer = await raw(gateway, b"hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "malformed-request"' in answer


async def test_a_slow_head_ends_the_connection(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    assert await raw(gateway) == b"", "a connection without a request is closed"
    assert (await raw(gateway, b"GET / HTTP/1.1\r\nhost:")).startswith(b"HTTP/1.1 408 ")
    one = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    answers = await raw(gateway, one, b"GET /health/live HTTP/1.1\r\n")
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answers


async def test_a_body_that_is_too_large_is_413_before_it_is_read(gateway: Gateway) -> None:
    path = "/api/conversations/c-1/messages"
    announced = await gateway.http.post(path, headers=ADA, content=b"x" * (256 * 1024 + 1))
    assert (announced.status_code, announced.json()["code"]) == (413, "body-too-large")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65_536

    chunked = await gateway.http.post(path, headers=ADA, content=endless())
    assert chunked.status_code == 413


async def test_what_is_too_much_is_refused_at_once_and_the_rest_is_served(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, gateway_max_requests=3) as gateway:
        await ready(gateway)
        async with busy_database(gateway):
            held = [asyncio.create_task(gateway.get(LISTING)) for _ in range(3)]
            await in_hand(gateway, 3)
            refused = await gateway.get(LISTING)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert {name: refused.headers[name] for name in SAFE} == SAFE
            assert (await gateway.http.get("/health/ready")).status_code == 200
            assert "chat_http_requests_shed_total 1.0" in (await gateway.http.get("/metrics")).text
        assert {(await one).status_code for one in held} == {200}
        await in_hand(gateway, 0)
        assert (await gateway.get(LISTING)).status_code == 200


async def test_waits_and_slow_bodies_are_no_work(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, gateway_max_requests=2) as gateway:
        await ready(gateway)
        session_id = await gateway.add_session()
        waits = [asyncio.create_task(gateway.get(f"{LISTING}/{session_id}", wait=30)) for _ in range(2)]
        await until(lambda: gateway.http.get("/metrics"), lambda answer: "chat_waiters 2.0" in answer.text)
        await in_hand(gateway, 0)
        gate = asyncio.Event()

        async def slow_body() -> AsyncIterator[bytes]:
            yield b'{"personaId": "echo", '
            await gate.wait()
            yield b'"message": "hello"}'

        slow = asyncio.create_task(
            gateway.http.post("/api/conversations/c-1/messages", headers=ADA, content=slow_body())
        )
        await in_hand(gateway, 0)
        assert (await gateway.get(LISTING)).status_code == 200
        gate.set()
        assert (await slow).status_code == 202
        await gateway.end_session(session_id, SessionStatus.COMPLETED)
        assert {(await wait).json()["status"] for wait in waits} == {"COMPLETED"}


async def test_when_too_many_wait_others_are_answered_as_if_their_time_were_up(
    any_broker: str, postgres_url: str
) -> None:
    async with running_gateway(any_broker, postgres_url, gateway_max_waits=1) as gateway:
        await ready(gateway)
        session_id = await gateway.add_session()
        path = f"{LISTING}/{session_id}"
        waiting = asyncio.create_task(gateway.get(path, wait=30))
        await until(lambda: gateway.http.get("/metrics"), lambda answer: "chat_waiters 1.0" in answer.text)
        async with asyncio.timeout(PATIENT_SECONDS):
            at_once = await gateway.get(path, wait=30)
            accepted = await gateway.send("c-2", wait=30)
        assert (at_once.status_code, at_once.json()["status"]) == (200, "ACTIVE")
        assert accepted.status_code == 202
        await gateway.end_session(session_id, SessionStatus.COMPLETED)
        assert (await waiting).json()["status"] == "COMPLETED"


async def test_a_request_that_takes_too_long_is_ended(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(shedding, "WORK_SECONDS", 0.3)
        async with busy_database(gateway):
            answer = await gateway.get(LISTING)
    assert (answer.status_code, answer.json()["code"]) == (503, "too-slow")
    await in_hand(gateway, 0)
    assert (await gateway.get(LISTING)).status_code == 200


async def test_a_bug_tells_nothing_of_itself(gateway: Gateway) -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE chat_sessions RENAME TO gone"))
    answer = await gateway.get(LISTING)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert "chat_sessions" not in answer.text
    assert "Traceback" not in answer.text
    assert {name: answer.headers[name] for name in SAFE} == SAFE


async def test_the_rate_of_messages_is_limited_per_user(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, rate_limit_messages=3, rate_limit_persona=2) as gateway:
        await ready(gateway)
        first = await gateway.send("c-1", personaId="one")
        assert re.fullmatch(r'"messages";r=2;t=\d+, "messages to one persona";r=1;t=\d+', first.headers["ratelimit"])
        assert (await gateway.send("c-1", personaId="one")).status_code == 202
        persona = await gateway.send("c-1", personaId="one")
        assert (persona.status_code, persona.json()["code"]) == (429, "rate-limited")
        refused = await gateway.send("c-1", personaId="two")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert refused.headers["ratelimit-policy"] == '"messages";q=3;w=60'
        assert (await gateway.send("c-2", BOB)).status_code == 202
