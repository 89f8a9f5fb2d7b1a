"""TLS to webhooks: certificates are verified, and a failed handshake was no call."""

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from services.contracts import FailureKind
from services.webhook_dispatcher import n8n as calls
from services.webhook_dispatcher.delivery import Again, Failed, judge
from services.webhook_dispatcher.n8n import N8n
from services.webhook_dispatcher.outcomes import NoAnswer, Trouble
from tests.certificates import Authority
from tests.integration.calling import LOCAL, call, call_with, hangs, sends, talker
from tests.integration.webhook_server import http

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("host", "lasts", "trusted", "good"),
    [
        ("localhost", DAY, True, True),
        ("localhost", DAY, False, False),
        ("other.example", DAY, True, False),
        ("localhost", -timedelta(minutes=1), True, False),
    ],
    ids=["good", "unknown authority", "another host's", "expired"],
)
async def test_certificates_are_verified(
    tmp_path: Path, host: str, lasts: timedelta, trusted: bool, good: bool
) -> None:
    authority = Authority(tmp_path, "authority")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(*authority.sign("server", host=host, lasts=lasts))
    trust = ssl.create_default_context()
    if trusted:
        trust.load_verify_locations(authority.certificate)
    requests = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"}")
        requests += 1
        writer.write(http({"reply": "hi"}))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    async with server, N8n(LOCAL, tls=trust) as n8n:
        exchange = await call_with(n8n, f"https://localhost:{port}/")
    if good:
        assert exchange.status == 200
        return
    verdict = judge(exchange.outcome)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.again) == (FailureKind.TLS, Again.ANYONE)
    assert (requests, exchange.course.connect_ms) == (0, None)


async def test_what_speaks_no_tls_is_a_tls_failure() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        exchange = await call(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble in {Trouble.TLS_FAILED, Trouble.NOT_CONNECTED}


async def test_a_tls_handshake_that_hangs_was_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CONNECT_SECONDS", 0.2)
    async with talker(hangs) as server:
        exchange = await call(server.url.replace("http:", "https:"))
    assert exchange.outcome == NoAnswer(Trouble.NOT_CONNECTED, "not within 0.2 s")
