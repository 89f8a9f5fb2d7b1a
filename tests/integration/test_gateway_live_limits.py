"""Streams end when they must, and no client costs another anything."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from services.api_gateway.live import open_streams
from services.contracts import new_id
from services.runtime import http_protocol
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, old_id, token, until
from tests.integration.live import LIVE, Tells, listening, listening_to_list, live_gateway, telling
from tests.patience import PATIENT_SECONDS

PADDING = {"metadata": {"pad": "x" * 8_000}}


@pytest.fixture
async def gateway(any_broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with live_gateway(any_broker, postgres_url, gateway_max_streams=5, gateway_max_streams_per_user=3) as running:
        yield running


@pytest.fixture
async def tells(any_broker: str) -> AsyncIterator[Tells]:
    async with telling(any_broker) as running:
        yield running


async def until_metric(gateway: Gateway, line: str) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        await until(lambda: http.get("/metrics"), lambda answer: f"\n{line}\n" in answer.text)


@contextlib.asynccontextmanager
async def deaf(gateway: Gateway) -> AsyncIterator[asyncio.StreamReader]:
    """A client that asks for the stream of ada's list, and reads nothing of it by itself."""
    url = httpx.URL(gateway.url)
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, (url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=plug, limit=1_024)
    writer.write(f"GET {LIVE} HTTP/1.1\r\nhost: a\r\nauthorization: {ADA['authorization']}\r\n\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()


async def flood(tells: Tells, count: int) -> list[str]:
    return list(await asyncio.gather(*(tells.change(new_id(), **PADDING) for _ in range(count))))


async def metrics_of(gateway: Gateway) -> str:
    return (await gateway.http.get("/metrics")).text


def ended(why: str) -> str:
    return f'chat_live_streams_ended_total{{why="{why}"}} 1.0'


async def test_a_slow_client_is_told_to_come_back_and_slows_nobody(gateway: Gateway, tells: Tells) -> None:
    async with deaf(gateway) as slow, listening_to_list(gateway) as quick:
        await until_metric(gateway, "chat_live_streams 2.0")
        told: list[str] = []
        while ended("slow") not in await metrics_of(gateway):
            # More and more, until neither the sockets between the two nor the stream can hold it.
            sent = await flood(tells, 50)
            heard = await quick.sessions(50)
            assert sorted(heard) == sorted(sent)
            told += heard
            assert len(told) < 20_000
        text = (await asyncio.wait_for(slow.read(-1), PATIENT_SECONDS)).decode()
        # What was told while nobody read is there, without a gap, and then how to go on.
        lines = [line for line in text.splitlines() if line.startswith(("event: ", "data: ", "id: "))]
        assert lines[-2:] == ["event: reconnect", 'data: {"reason":"slow"}']
        first = [json.loads(line[6:])["sessionId"] for line in lines if '"sessionId"' in line]
        assert first == told[: len(first)]
        assert 0 < len(first) < len(told)
        known = [line for line in lines if line.startswith("id: ")][-1][4:]
        async with listening_to_list(gateway, known=known) as again:
            rest = told[len(first) :]
            assert await again.sessions(len(rest)) == rest
        after = await tells.change(new_id())
        assert await quick.sessions(1) == [after]


async def test_a_client_that_takes_nothing_at_all_is_cut_off(
    gateway: Gateway, tells: Tells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALL_SECONDS", 0.5)
    async with deaf(gateway) as slow, asyncio.timeout(PATIENT_SECONDS):
        await until_metric(gateway, "chat_live_streams 1.0")
        # Of the two limits a busy machine may reach either first: what waits for the client, or how long it waits.
        while not {ended("slow"), ended("gone")} & set((await metrics_of(gateway)).splitlines()):
            await flood(tells, 50)
        await until_metric(gateway, "chat_live_streams 0.0")
        assert b"reconnect" not in await slow.read(-1)


async def test_streams_are_bounded_for_each_and_for_all(gateway: Gateway) -> None:
    async with contextlib.AsyncExitStack() as stack:
        adas = [await stack.enter_async_context(listening_to_list(gateway)) for _ in range(3)]
        refused = await gateway.get(LIVE)
        assert (refused.status_code, refused.json()["code"]) == (429, "too-many-streams")
        for _ in range(2):
            await stack.enter_async_context(listening_to_list(gateway, headers=BOB))
        session_id = await gateway.add_session(user_id="root")
        for path in (LIVE, f"/api/chat-sessions/{session_id}/live"):
            refused = await gateway.get(path, ROOT)
            assert (refused.status_code, refused.json()["code"]) == (503, "too-many-streams")
            assert refused.headers["retry-after"] == "10"
        # They hold no place among the requests that are worked on.
        assert "\nchat_http_requests_in_hand 0.0\n" in await metrics_of(gateway)
        await adas[0].answer.aclose()
        await until_metric(gateway, "chat_live_streams 4.0")
        assert ended("gone") in await metrics_of(gateway)
        async with listening_to_list(gateway):
            pass
    await until_metric(gateway, "chat_live_streams 0.0")


async def test_a_refused_question_holds_no_stream(gateway: Gateway) -> None:
    session_id = await gateway.add_session(old_id())
    await gateway.folded(datetime.now(UTC))
    for _ in range(4):
        answer = await gateway.get(f"/api/chat-sessions/{session_id}/live", BOB)
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-session")
    assert "\nchat_live_streams 0.0\n" in await metrics_of(gateway)


async def test_a_stream_ends_with_its_token(gateway: Gateway, tells: Tells) -> None:
    headers = {"authorization": f"Bearer {token(exp=time.time() + 2)}"}
    session_id = await gateway.add_session()
    async with (
        listening_to_list(gateway, headers=headers) as short,
        listening(gateway, f"/api/chat-sessions/{session_id}/live", headers=headers) as of_session,
        listening_to_list(gateway, headers=ROOT, userId="*") as long,
    ):
        await of_session.expect("session")
        for listener in (short, of_session):
            assert (await listener.expect("reconnect")).data == {"reason": "token-expired"}
            await listener.expect_end()
        after = await tells.change(new_id())
        assert await long.sessions(1) == [after]


async def test_a_stream_does_not_last_for_ever(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_streams, "LONGEST_SECONDS", 0.2)
    async with listening_to_list(gateway) as listener:
        assert (await listener.expect("reconnect")).data == {"reason": "long-enough"}
        await listener.expect_end()


async def test_a_silent_stream_is_kept_alive_and_moves_on(
    gateway: Gateway, tells: Tells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.1)
    session_id = await gateway.add_session()
    async with (
        listening_to_list(gateway) as ada,
        listening_to_list(gateway, headers=ROOT, q="user:ada") as filtered,
        listening(gateway, f"/api/chat-sessions/{session_id}/live") as of_session,
    ):
        await of_session.expect("session")
        await of_session.expect_comment()
        began = ada.last_id
        await tells.change(new_id(), user_id="bob")
        async with asyncio.timeout(PATIENT_SECONDS):
            while began in {ada.last_id, filtered.last_id}:
                await ada.expect("position")
                await filtered.expect("position")
        # What others' changes moved is not told again to who comes back.
        async with listening_to_list(gateway, known=ada.last_id) as again:
            after = await tells.change(session_id, version=2)
            assert await again.sessions(1) == [after]
        assert (await of_session.expect("session")).data["version"] == 2


async def test_a_gateway_that_stops_ends_its_streams_at_once(any_broker: str, postgres_url: str, tells: Tells) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with live_gateway(any_broker, postgres_url) as stopping:
            session_id = await stopping.add_session()
            listeners = [
                await stack.enter_async_context(listening_to_list(stopping)),
                await stack.enter_async_context(listening_to_list(stopping, q="attempts:0")),
                await stack.enter_async_context(listening(stopping, f"/api/chat-sessions/{session_id}/live")),
            ]
            before = await tells.change(session_id, version=2)
            assert await listeners[0].sessions(1) == await listeners[1].sessions(1) == [before]
            await listeners[2].sessions(2)
            began = time.monotonic()
        assert time.monotonic() - began < 5, "nothing was waited for until its limit"
        for listener in listeners:
            assert (await listener.expect("reconnect")).data == {"reason": "gateway-stopping"}
            await listener.expect_end()
    after = await tells.change(new_id())
    async with (
        live_gateway(any_broker, postgres_url) as another,
        listening_to_list(another, known=listeners[0].last_id) as again,
    ):
        assert await again.sessions(1) == [after]


async def test_metrics_tell_how_late_streams_are(gateway: Gateway, tells: Tells) -> None:
    async with listening_to_list(gateway) as one, listening_to_list(gateway, headers=ROOT, userId="*") as two:
        await tells.change(new_id())
        await one.sessions(1)
        await two.sessions(1)
        told = await metrics_of(gateway)
    # Twice the position each begins with, and the change; it was late once for each of the two selections.
    assert "\nchat_live_events_total 4.0\n" in told
    assert "\nchat_live_delay_seconds_count 2.0\n" in told
