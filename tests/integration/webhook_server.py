"""A webhook server that does what a test tells it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the webhook server got it; `number` counts the calls of its session from 1."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    number: int
    raw: bytes
    """The body as it came."""

    @property
    def session_id(self) -> UUID:
        return UUID(self.body["sessionId"])


Answer = Callable[[Call], Awaitable[bytes]]


def http(body: object = None, status: int = 200, **headers: str) -> bytes:
    """An HTTP answer; everything but bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-type": "application/json", "content-length": str(len(content))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def echo(call: Call) -> bytes:
    return http({"reply": f"You said: {call.body['message']}"})


async def never(call: Call) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


@dataclass(slots=True)
class Webhook:
    """A webhook server. A call that its caller breaks off goes to `broken_off`."""

    port: int = 0
    answer: Answer = echo
    calls: list[Call] = field(default_factory=list)
    broken_off: list[Call] = field(default_factory=list)
    counts: Counter[UUID] = field(default_factory=Counter)
    connections: int = 0

    def url(self, persona_id: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/webhook/{persona_id}"

    def sessions(self) -> list[UUID]:
        return [call.session_id for call in self.calls]

    def calls_of(self, session_id: UUID) -> int:
        return self.counts[session_id]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                call = await self._read(reader)
                self.calls.append(call)
                answering = asyncio.ensure_future(self.answer(call))
                leaving = asyncio.ensure_future(reader.read(1))
                try:
                    await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    finished = answering.done()
                    for task in (answering, leaving):
                        task.cancel()
                    await asyncio.gather(answering, leaving, return_exceptions=True)
                if not finished:
                    self.broken_off.append(call)
                    break
                writer.write(answering.result())
                await writer.drain()
                if b"content-length" not in answering.result():
                    break

    async def _read(self, reader: asyncio.StreamReader) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers["content-length"]))
        body = json.loads(raw)
        session_id = UUID(body["sessionId"])
        self.counts[session_id] += 1
        return Call(head[0].split(" ")[1], headers, body, self.counts[session_id], raw)


@asynccontextmanager
async def webhook_server(answer: Answer = echo) -> AsyncIterator[Webhook]:
    """A webhook server on 127.0.0.1."""
    webhook = Webhook(answer=answer)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(webhook.connected(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    webhook.port = server.sockets[0].getsockname()[1]
    try:
        yield webhook
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        ends = await asyncio.gather(*connections, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
