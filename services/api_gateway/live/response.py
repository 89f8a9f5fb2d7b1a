"""A stream as the answer to a request."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.api_gateway.live.stream import End, Stream

MEDIA_TYPE = "text/event-stream"
_HEADERS = {
    "content-type": MEDIA_TYPE,
    "cache-control": "no-store",
    # What comes after the end is another request, perhaps to another gateway.
    "connection": "close",
    # nginx would gather events.
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """Sends what a stream has for as long as it lasts, and last of all what `last` returns for its end.

    `held` is closed at the end, whatever ends it.
    """

    def __init__(self, stream: Stream, last: Callable[[End], Awaitable[bytes]], held: contextlib.ExitStack) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._stream = stream
        self._last = last
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; return when the stream has ended or the client has gone."""
        watching = asyncio.create_task(self._until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (part := await self._stream.next()) is not None:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            why = self._stream.ended or End.FAILED
            last = b"" if why is End.GONE else await self._last(why)
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            watching.cancel()
            self._held.close()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.end(End.GONE)


def headers_only() -> Response:
    """Return the answer to a client that asks for the headers of a stream."""
    answer = Response(headers=_HEADERS)
    del answer.headers["content-length"]
    return answer
