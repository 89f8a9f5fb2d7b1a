"""Calls of webhooks on real sockets: what is sent, what is read, and what is left of the connection."""

import asyncio

import pytest

from services.webhook_dispatcher.bodies import MAX_BODY_BYTES
from services.webhook_dispatcher.credentials import Credentials
from services.webhook_dispatcher.n8n import N8n
from services.webhook_dispatcher.outcomes import Answer, NoAnswer, Trouble
from tests.integration.calling import LOCAL, call, call_with, endlessly, head, talker
from tests.integration.kafka_log import eventually
from tests.integration.webhook_server import Call, http, never, webhook_server


async def test_an_answer_up_to_the_cap_is_read_whole() -> None:
    async def answer(_: object) -> bytes:
        return http(b"x" * MAX_BODY_BYTES)

    async with webhook_server(answer) as webhook:
        exchange = await call(webhook.url("p1"))
    assert isinstance(exchange.outcome, Answer)
    assert len(exchange.outcome.body) == MAX_BODY_BYTES


async def test_an_answer_beyond_the_cap_has_its_socket_closed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head())
        await endlessly(b"x" * 65_536)(reader, writer)

    async with talker(talk) as server:
        exchange = await call(server.url)
        assert exchange.outcome == NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")
        await eventually(lambda: server.left == [b"reset"], "the socket was closed")


async def test_an_answer_declared_larger_than_the_cap_is_not_read() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length=str(MAX_BODY_BYTES + 1)))
        await writer.drain()
        await reader.read()

    async with talker(talk) as server:
        exchange = await call(server.url)
    assert exchange.outcome == NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")


async def test_redirects_are_not_followed() -> None:
    async with webhook_server() as elsewhere:

        async def answer(_: object) -> bytes:
            return http(b"", status=307, location=elsewhere.url("p1"))

        async with webhook_server(answer) as webhook:
            exchange = await call(webhook.url("p1"))
    assert exchange.status == 307
    assert elsewhere.calls == []


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with webhook_server() as proxy, webhook_server() as webhook:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        exchange = await call(webhook.url("p1"))
    assert exchange.status == 200
    assert proxy.calls == []


async def test_a_fixed_header_is_sent_as_the_persona_says() -> None:
    async with webhook_server() as webhook:
        await call(webhook.url("p1"), credentials=Credentials(header=("x-key", "s3cret")))
        bad = await call(webhook.url("p1"), credentials=Credentials(header=("x-key", "a\r\nb: c")))
        unreadable = await call(webhook.url("p1"), auth_unreadable=True)
    assert [c.headers["x-key"] for c in webhook.calls] == ["s3cret"]
    assert isinstance(bad.outcome, NoAnswer)
    assert bad.outcome.trouble is Trouble.ADDRESS_REFUSED
    assert "b: c" not in bad.outcome.detail
    assert unreadable.outcome == NoAnswer(Trouble.NO_CREDENTIALS)


async def test_a_cancelled_call_closes_its_socket_at_once() -> None:
    async with webhook_server(never) as webhook, N8n(LOCAL) as n8n:
        calling = asyncio.create_task(call_with(n8n, webhook.url("p1"), seconds=60))
        await eventually(lambda: len(webhook.calls) == 1, "the call was made")
        calling.cancel()
        await eventually(lambda: len(webhook.broken_off) == 1, "the socket was closed", seconds=2)
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_connections_are_kept_between_calls() -> None:
    async with webhook_server() as webhook, N8n(LOCAL) as n8n:
        for _ in range(5):
            assert (await call_with(n8n, webhook.url("p1"))).status == 200
    assert webhook.connections == 1


async def test_times_are_told_in_the_order_in_which_they_pass() -> None:
    async def answer(_: object) -> bytes:
        await asyncio.sleep(0.05)
        return http({"reply": "hi"})

    async with webhook_server(answer) as webhook, N8n(LOCAL) as n8n:
        fresh, kept = [await call_with(n8n, webhook.url("p1")) for _ in range(2)]
    for exchange in (fresh, kept):
        assert exchange.course.connect_ms is not None
        assert exchange.course.first_byte_ms is not None
        assert 0 <= exchange.course.connect_ms < exchange.course.first_byte_ms <= exchange.duration_ms
        assert exchange.course.first_byte_ms >= 45


@pytest.mark.parametrize(
    ("answer", "execution_id"),
    [
        (http({"reply": "hi"}, x_n8n_execution_id="4711"), "4711"),
        (http({"reply": "hi", "executionId": 4712}), "4712"),
        (http([{"reply": "hi", "executionId": "4713"}]), "4713"),
        (http({"message": "Error in workflow", "executionId": "4714"}, status=500), "4714"),
        (http(b'{"type":"begin","metadata":{"executionId":"4715"}}\n{"type":"end"}\n'), "4715"),
        (http({"reply": "executionId"}), None),
        (http({"reply": "hi", "executionId": "no id\n"}), None),
        (http({"reply": "hi", "executionId": True}), None),
    ],
)
async def test_the_execution_is_known_where_the_workflow_tells_it(answer: bytes, execution_id: str | None) -> None:
    async def told(_: Call) -> bytes:
        return answer

    async with webhook_server(told) as webhook:
        exchange = await call(webhook.url("p1"))
    assert exchange.course.execution_id == execution_id
