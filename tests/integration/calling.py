"""Calls of webhooks as the dispatcher makes them, and servers that misbehave on the bare socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from services.runtime.egress import EgressRules
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.n8n import N8n, unheard
from services.webhook_dispatcher.outcomes import Exchange
from services.webhook_dispatcher.personas import Persona
from tests.sample_events import SessionEvents

LOCAL = EgressRules.parse(["127.0.0.0/8", "::1/128"])
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def call(url: str, *, rules: EgressRules = LOCAL, **how: Any) -> Exchange:
    """One call by a client of its own; `how` as in `call_with`."""
    async with N8n(rules) as n8n:
        return await call_with(n8n, url, **how)


async def call_with(
    n8n: N8n, url: str, *, seconds: float = 5, hear: Callable[[str], None] = unheard, **persona: Any
) -> Exchange:
    """One call that may last `seconds`, for a persona with these attributes."""
    called = Persona("p1", url, **persona)
    course = Course(time.monotonic(), seconds, called.first_byte_seconds, called.idle_seconds)
    return await n8n.call(called, SessionEvents().sent(), course, traceparent=TRACEPARENT, hear=hear)


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


def sends(*pieces: bytes, then: Talk | None = None) -> Talk:
    """Sends these bytes, and then ends the connection or goes on as told."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then is not None:
            await then(reader, writer)

    return talk


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def endlessly(piece: bytes, *, every: float = 0) -> Talk:
    """Sends the same bytes again and again."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return talk


def head(status: int = 200, **headers: str) -> bytes:
    """The beginning of an answer."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a body with `transfer-encoding: chunked`."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
