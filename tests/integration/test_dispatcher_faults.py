"""How webhooks answer and fail, on real sockets: the kind of failure, who may call again, and the memory it took."""

import gzip
import socket
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest

from services.contracts import FailureKind
from services.contracts.replies import Reply
from services.local.n8n_answers import WEBHOOKS, WebhookCall
from services.webhook_dispatcher.delivery import Again, Failed, judge
from tests.integration.calling import Talk, call, chunk, endlessly, hangs, head, resets, sends, talker
from tests.integration.webhook_server import Call, http, never, webhook_server

BEGIN = b'{"type":"begin"}\n'
ITEM = b'{"type":"item","content":"word ","metadata":{"nodeId":"1"}}\n'
BOMB = gzip.compress(bytes(50_000_000))
CHUNKED = {"transfer_encoding": "chunked", "content_type": "application/json"}


@dataclass(frozen=True)
class Fault:
    """What a server does with a whole request, and what that is to the dispatcher."""

    name: str
    talk: Talk
    kind: FailureKind
    again: Again
    limits: tuple[tuple[str, float], ...] = ()


FAULTS = (
    Fault("reset", resets, FailureKind.CONNECT, Again.IDEMPOTENT),
    Fault("closed without an answer", sends(), FailureKind.CONNECT, Again.IDEMPOTENT),
    Fault("cut off", sends(head(content_length="100") + b"abc"), FailureKind.CONNECT, Again.IDEMPOTENT),
    Fault("cut off, chunked", sends(head(**CHUNKED) + chunk(b"abc")), FailureKind.CONNECT, Again.IDEMPOTENT),
    Fault("hangs", hangs, FailureKind.TIMEOUT, Again.IDEMPOTENT),
    Fault("hangs after half its headers", sends(b"HTTP/1.1 200", then=hangs), FailureKind.TIMEOUT, Again.IDEMPOTENT),
    Fault(
        "slow headers",
        sends(b"HTTP/1.1 200 OK\r\n", then=endlessly(b"x: y\r\n", every=0.02)),
        FailureKind.TIMEOUT,
        Again.IDEMPOTENT,
    ),
    Fault(
        "endless headers",
        sends(b"HTTP/1.1 200 OK\r\n", then=endlessly(b"x: y\r\n")),
        FailureKind.BAD_REPLY,
        Again.NOBODY,
    ),
    Fault("a huge header", sends(head(x="a" * 100_000)), FailureKind.BAD_REPLY, Again.NOBODY),
    Fault(
        "endless interim answers",
        endlessly(b"HTTP/1.1 100 Continue\r\n\r\n", every=0.001),
        FailureKind.TIMEOUT,
        Again.IDEMPOTENT,
    ),
    Fault("no first byte", hangs, FailureKind.TIMEOUT, Again.IDEMPOTENT, (("first_byte_seconds", 0.2),)),
    Fault("slow body", sends(head(), then=endlessly(b"x", every=0.05)), FailureKind.TIMEOUT, Again.IDEMPOTENT),
    Fault(
        "idle body", sends(head() + b"x", then=hangs), FailureKind.TIMEOUT, Again.IDEMPOTENT, (("idle_seconds", 0.2),)
    ),
    Fault("endless body", sends(head(), then=endlessly(b"x" * 65_536)), FailureKind.TOO_LARGE, Again.NOBODY),
    Fault(
        "endless line of a stream",
        sends(head(**CHUNKED) + chunk(BEGIN), then=endlessly(chunk(b"x" * 65_536))),
        FailureKind.TOO_LARGE,
        Again.NOBODY,
    ),
    Fault(
        "endless stream",
        sends(head(**CHUNKED) + chunk(BEGIN), then=endlessly(chunk(ITEM * 500))),
        FailureKind.TOO_LARGE,
        Again.NOBODY,
    ),
    Fault(
        "a stream that only keeps alive",
        sends(head(**CHUNKED) + chunk(BEGIN), then=endlessly(chunk(b'{"type":"keepalive"}\n'), every=0.01)),
        FailureKind.TIMEOUT,
        Again.IDEMPOTENT,
    ),
    Fault(
        "a stream without its end",
        sends(head(**CHUNKED) + chunk(BEGIN + ITEM) + chunk(b"")),
        FailureKind.BAD_REPLY,
        Again.NOBODY,
    ),
    Fault(
        "a stream that is reset",
        sends(head(**CHUNKED) + chunk(BEGIN + ITEM), then=resets),
        FailureKind.CONNECT,
        Again.IDEMPOTENT,
    ),
    Fault(
        "a stream that fails, and hangs",
        sends(head(**CHUNKED) + chunk(BEGIN + b'{"type":"error","content":"No model"}\n'), then=hangs),
        FailureKind.WORKFLOW_ERROR,
        Again.IDEMPOTENT,
    ),
    Fault("gzip bomb", sends(http(BOMB, content_encoding="gzip")), FailureKind.BAD_REPLY, Again.NOBODY),
    Fault("declared huge", sends(head(content_length=str(2**40)), then=hangs), FailureKind.TOO_LARGE, Again.NOBODY),
    Fault("redirect", sends(http(b"", 302, location="http://127.0.0.1:1/")), FailureKind.HTTP_4XX, Again.NOBODY),
    Fault("another protocol", sends(b"SSH-2.0-OpenSSH_9\r\n"), FailureKind.BAD_REPLY, Again.NOBODY),
    Fault("a length that is none", sends(head(content_length="x")), FailureKind.BAD_REPLY, Again.NOBODY),
    Fault("a picture", sends(http(b"\x89PNG", content_type="image/png")), FailureKind.BAD_REPLY, Again.NOBODY),
    Fault("HTML that says JSON", sends(http(b"<html>")), FailureKind.BAD_REPLY, Again.NOBODY),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_is_known_for_what_it_is(fault: Fault) -> None:
    # Long enough for a connection on a busy machine: without one it would be another fault.
    seconds = 1 if fault.kind is FailureKind.TIMEOUT and not fault.limits else 30
    async with talker(fault.talk) as server:
        tracemalloc.start()
        try:
            exchange = await call(server.url, seconds=seconds, **dict(fault.limits))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    verdict = judge(exchange.outcome)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.again) == (fault.kind, fault.again)
    assert server.connections == 1
    # The body's cap a few times over, in this process with the server; whatever was sent.
    assert peak < 12_000_000
    for name, _ in fault.limits:
        assert name.partition("_")[0] in verdict.explanation


async def test_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        exchange = await call(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    verdict = judge(exchange.outcome)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.again) == (FailureKind.CONNECT, Again.ANYONE)
    assert (exchange.course.connect_ms, exchange.course.first_byte_ms) == (None, None)


async def test_a_deadline_before_the_connection_started_nothing() -> None:
    """The whole time of the call is over while the TLS handshake hangs: the workflow cannot have run."""
    async with talker(hangs) as server:
        exchange = await call(server.url.replace("http:", "https:"), seconds=0.2)
    verdict = judge(exchange.outcome)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.again) == (FailureKind.CONNECT, Again.ANYONE)


N8N: dict[str, tuple[FailureKind, Again] | None] = {
    "echo": None,
    "last-node": None,
    "streaming": None,
    "dedupe": None,
    "immediate": (FailureKind.ACKNOWLEDGED_ONLY, Again.NOBODY),
    "callback": (FailureKind.ACKNOWLEDGED_ONLY, Again.NOBODY),
    "forgetful": (FailureKind.ACKNOWLEDGED_ONLY, Again.NOBODY),
    "skipped": (FailureKind.NO_REPLY, Again.NOBODY),
    "last-node-empty": (FailureKind.NO_REPLY, Again.NOBODY),
    "empty": (FailureKind.NO_REPLY, Again.NOBODY),
    "broken-before-respond": (FailureKind.NO_REPLY, Again.NOBODY),
    "broken-respond": (FailureKind.NO_REPLY, Again.NOBODY),
    "broken": (FailureKind.WORKFLOW_ERROR, Again.IDEMPOTENT),
    "streaming-broken": (FailureKind.WORKFLOW_ERROR, Again.IDEMPOTENT),
    "no-respond": (FailureKind.WORKFLOW_ERROR, Again.NOBODY),
    "cannot-start": (FailureKind.WORKFLOW_ERROR, Again.ANYONE),
    "flaky": (FailureKind.WORKFLOW_ERROR, Again.ANYONE),
    "not-registered": (FailureKind.NOT_REGISTERED, Again.NOBODY),
    "wrong-method": (FailureKind.NOT_REGISTERED, Again.NOBODY),
    "unauthorized": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "wrong-password": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "forbidden": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "no-token": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "wrong-token": (FailureKind.UNAUTHORIZED, Again.NOBODY),
    "overloaded": (FailureKind.HTTP_4XX, Again.ANYONE),
    "hang": (FailureKind.TIMEOUT, Again.IDEMPOTENT),
    "cloud-timeout": (FailureKind.TIMEOUT, Again.IDEMPOTENT),
}
"""Every answer that n8n is known to give, but for those that only take their time."""


def test_every_webhook_of_the_stub_has_its_row() -> None:
    assert N8N.keys() == WEBHOOKS.keys() - {"slow", "uneven"}


@pytest.mark.parametrize("webhook", N8N)
async def test_what_n8n_answers_is_read_from_the_wire(webhook: str) -> None:
    async def answer(asked: Call) -> bytes:
        played = WEBHOOKS[webhook](WebhookCall(webhook, str(asked.session_id), asked.body["message"], asked.number))
        if played is None:
            return await never(asked)
        typed: dict[str, Any] = {} if played.content_type is None else {"content_type": played.content_type}
        headers = {name.replace("-", "_"): value for name, value in played.headers}
        return http(b"".join(played.body), played.status, **typed, **headers)

    async with webhook_server(answer) as server:
        exchange = await call(server.url(webhook), seconds=1 if webhook == "hang" else 5)
    verdict = judge(exchange.outcome)
    if isinstance(verdict, Reply):
        assert (verdict.text, N8N[webhook]) == ("You said: hello", None)
    else:
        assert (verdict.kind, verdict.again) == N8N[webhook]
