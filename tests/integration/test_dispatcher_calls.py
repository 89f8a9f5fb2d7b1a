"""Calls of webhooks that misbehave, on real sockets: what comes back, and what is left of the connection."""

import asyncio
import gzip
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.runtime.egress import EgressRules
from services.webhook_dispatcher.delivery import Answer, NoAnswer, Trouble
from services.webhook_dispatcher.n8n import MAX_BODY_BYTES, Exchange, N8n
from services.webhook_dispatcher.personas import Persona
from tests.integration.kafka_log import eventually
from tests.integration.webhook_server import http, never, webhook_server
from tests.sample_events import SessionEvents

LOCAL = EgressRules.parse(["127.0.0.0/8", "::1/128"])
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def call(url: str, *, rules: EgressRules = LOCAL, seconds: float = 5, **persona: object) -> Exchange:
    async with N8n(rules) as n8n:
        return await call_with(n8n, url, seconds=seconds, **persona)


async def call_with(n8n: N8n, url: str, *, seconds: float = 5, **persona: object) -> Exchange:
    return await n8n.call(
        Persona("p1", url, **persona),  # type: ignore[arg-type]
        SessionEvents().sent(),
        traceparent=TRACEPARENT,
        timeout_seconds=seconds,
    )


class Talker:
    """A server that gets a whole request and then does what a test wants, on the bare socket."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.port = 0
        self.connections = 0
        self.left: list[bytes] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"}")
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.append(b"reset")
        finally:
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhook/p1"


@asynccontextmanager
async def talker(talk: Talk) -> AsyncIterator[Talker]:
    running = Talker(talk)
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda r, w: tasks.add(asyncio.create_task(running.connected(r, w))), "127.0.0.1", 0
    )
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def sends(*pieces: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return talk


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def sends_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def sends_endlessly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("talk", "trouble"),
    [
        (resets, Trouble.LOST),
        (sends(), Trouble.LOST),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"), Trouble.LOST),
        (sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"), Trouble.LOST),
        (sends(b"SSH-2.0-OpenSSH_9\r\n"), Trouble.NOT_HTTP),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), Trouble.NOT_HTTP),
        (sends(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n"), Trouble.NOT_HTTP),
        (hangs, Trouble.NOT_IN_TIME),
        (sends_slowly, Trouble.NOT_IN_TIME),
        (sends_endlessly, Trouble.TOO_LARGE),
    ],
)
async def test_a_webhook_that_misbehaves(talk: Talk, trouble: Trouble) -> None:
    async with talker(talk) as server:
        exchange = await call(server.url, seconds=0.5)
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble is trouble
    assert server.connections == 1
    assert exchange.duration_ms < 3_000


async def test_an_endless_answer_is_cut_off_at_the_cap() -> None:
    async with talker(sends_endlessly) as server:
        exchange = await call(server.url)
        assert exchange.outcome == NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")
        await eventually(lambda: server.left == [b"reset"], "the socket was closed")


async def test_an_answer_up_to_the_cap_is_read_whole() -> None:
    async def answer(_: object) -> bytes:
        return http(b"x" * MAX_BODY_BYTES)

    async with webhook_server(answer) as webhook:
        exchange = await call(webhook.url("p1"))
    assert isinstance(exchange.outcome, Answer)
    assert len(exchange.outcome.body) == MAX_BODY_BYTES


async def test_an_answer_declared_larger_than_the_cap_is_not_read() -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
    async with talker(sends(head)) as server:
        exchange = await call(server.url)
    assert exchange.outcome == NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")


async def test_compressed_bodies_stay_packed_and_none_is_asked_for() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)

    async def answer(_: object) -> bytes:
        return http(bomb, content_encoding="gzip")

    async with webhook_server(answer) as webhook:
        exchange = await call(webhook.url("p1"))
    assert exchange.outcome == Answer(200, bomb, "application/json", "gzip")
    assert webhook.calls[0].headers["accept-encoding"] == "identity"


async def test_redirects_are_not_followed() -> None:
    async with webhook_server() as elsewhere:

        async def answer(_: object) -> bytes:
            return http(b"", status=307, location=elsewhere.url("p1"))

        async with webhook_server(answer) as webhook:
            exchange = await call(webhook.url("p1"))
    assert exchange.status == 307
    assert elsewhere.calls == []


async def test_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        exchange = await call(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble is Trouble.NOT_CONNECTED


async def test_a_host_that_does_not_resolve() -> None:
    exchange = await call("http://nowhere.invalid/")
    assert exchange.outcome == NoAnswer(Trouble.NOT_RESOLVED)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "2130706433", "0x7f.1", "127.1", "LOCALHOST"]
)
async def test_an_address_of_this_machine_is_refused_however_it_is_written(host: str) -> None:
    async with webhook_server() as webhook:
        exchange = await call(f"http://{host}:{webhook.port}/", rules=EgressRules())
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble is Trouble.ADDRESS_REFUSED
    assert webhook.calls == []


async def test_a_name_is_connected_to_only_where_it_may_be() -> None:
    async with webhook_server() as webhook:
        exchange = await call(webhook.url("p1", host="localhost"), rules=EgressRules.parse(["127.0.0.1/32"]))
    assert exchange.status == 200
    assert webhook.calls[0].headers["host"] == f"localhost:{webhook.port}"


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with webhook_server() as proxy, webhook_server() as webhook:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        exchange = await call(webhook.url("p1"))
    assert exchange.status == 200
    assert proxy.calls == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://user:secret@127.0.0.1/", "http://[::1/"])
async def test_a_url_that_must_not_be_called(url: str) -> None:
    exchange = await call(url)
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble is Trouble.ADDRESS_REFUSED
    assert "secret" not in exchange.outcome.detail


async def test_credentials_are_sent_as_the_persona_says() -> None:
    async with webhook_server() as webhook:
        await call(webhook.url("p1"), auth_header=("x-key", "s3cret"))
        bad = await call(webhook.url("p1"), auth_header=("x-key", "a\r\nb: c"))
        unreadable = await call(webhook.url("p1"), auth_unreadable=True)
    assert [c.headers["x-key"] for c in webhook.calls] == ["s3cret"]
    assert isinstance(bad.outcome, NoAnswer)
    assert unreadable.outcome == NoAnswer(Trouble.NO_CREDENTIALS)


async def test_a_cancelled_call_closes_its_socket_at_once() -> None:
    async with webhook_server(never) as webhook, N8n(LOCAL) as n8n:
        calling = asyncio.create_task(call_with(n8n, webhook.url("p1"), seconds=60))
        await eventually(lambda: len(webhook.calls) == 1, "the call was made")
        calling.cancel()
        began = time.monotonic()
        await eventually(lambda: len(webhook.broken_off) == 1, "the socket was closed", seconds=2)
        assert time.monotonic() - began < 1
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_connections_are_kept_between_calls() -> None:
    async with webhook_server() as webhook, N8n(LOCAL) as n8n:
        for _ in range(5):
            assert (await call_with(n8n, webhook.url("p1"))).status == 200
    assert webhook.connections == 1


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str, timedelta], ssl.SSLContext]:
    """Makes server contexts with a self-signed certificate for a name, valid for so long from yesterday on."""

    def make(name: str, lasts: timedelta) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = datetime.now(UTC) - timedelta(days=1)
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + lasts)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "server.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + secret)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    return make


@pytest.mark.parametrize(
    ("name", "days", "trusted", "trouble"),
    [
        ("localhost", 30, True, None),
        ("localhost", 30, False, Trouble.TLS_FAILED),
        ("other.example", 30, True, Trouble.TLS_FAILED),
        ("localhost", 0.5, True, Trouble.TLS_FAILED),
    ],
)
async def test_certificates_are_verified(
    certificate: Callable[[str, timedelta], ssl.SSLContext],
    tmp_path: Path,
    name: str,
    days: float,
    trusted: bool,
    trouble: Trouble | None,
) -> None:
    context = certificate(name, timedelta(days=days))
    trust = ssl.create_default_context()
    if trusted:
        trust.load_verify_locations(tmp_path / "server.pem")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(http({"reply": "hi"}))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, N8n(LOCAL, tls=trust) as n8n:
        exchange = await call_with(n8n, f"https://localhost:{port}/")
    if trouble is None:
        assert exchange.status == 200
    else:
        assert isinstance(exchange.outcome, NoAnswer)
        assert exchange.outcome.trouble is trouble


async def test_what_speaks_no_tls_is_a_tls_failure() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        exchange = await call(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble in {Trouble.TLS_FAILED, Trouble.NOT_CONNECTED}


async def test_a_tls_handshake_that_hangs_was_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.webhook_dispatcher.n8n.CONNECT_SECONDS", 0.2)
    async with talker(hangs) as server:
        exchange = await call(server.url.replace("http:", "https:"))
    assert exchange.outcome == NoAnswer(Trouble.NOT_CONNECTED, "not within 0.2 s")
