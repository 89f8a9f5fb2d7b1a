"""A webhook that answers as fast as Python can: at once, after 50 ms on `/slow`, never on `/hang`.

Remembers when the call of each `webhook-id` came and was answered (`time.time()`), and tells it on `GET /stamps`.
"""

import asyncio
import re
import sys
import time

import orjson
import uvloop

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"reply":"ok"}'
SLOW_SECONDS = 0.05

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"webhook-id: *([0-9a-f-]+)", re.IGNORECASE)


class Webhook(asyncio.Protocol):
    """One connection. Requests that arrive in pieces are put together."""

    def __init__(self, stamps):
        self.stamps = stamps

    def connection_made(self, transport):
        self.transport = transport
        self.received = b""

    def data_received(self, data):
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length.group(1)) if length else 0)
            if len(self.received) < whole:
                return
            self.received = self.received[whole:]
            self.answer(head, time.time())

    def answer(self, head, came):
        path = head.split(b" ", 2)[1]
        if path == b"/stamps":
            body = orjson.dumps(self.stamps)
            self.stamps.clear()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        elif path == b"/slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self.transport.write, ANSWER)
        elif path != b"/hang":
            self.transport.write(ANSWER)
            if found := _ID.search(head):
                self.stamps[found.group(1).decode()] = came, time.time()


async def main() -> None:
    stamps: dict[str, tuple[float, float]] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: Webhook(stamps), "127.0.0.1", int(sys.argv[1]), backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
