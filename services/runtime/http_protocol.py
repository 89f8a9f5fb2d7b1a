"""HTTP/1.1 as uvicorn speaks it with httptools, with heads bounded in size and time, and answers that are taken."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from services.runtime.http_titles import title_of
from services.runtime.one_write import OneWrite
from services.runtime.tracing import continued, trace_id_of

MAX_HEAD_BYTES = 32 * 1024
"""Of the request line and the headers together; a token may have 8 KiB of it."""
LINGER_SECONDS = 1.0
HEAD_SECONDS = 10.0
"""From a connection's opening, or the first byte of a later request, to the end of its head."""
STALL_SECONDS = 60.0
"""For a client to take the 48 KiB between uvicorn's marks of what waits to be sent; else it is cut off."""


class HeadTooLarge(Exception):
    """The request's head has more than MAX_HEAD_BYTES."""


class BoundedHttp(HttpToolsProtocol):
    """Answers 431 to a head that is too large, 408 to one that does not come to its end, and closes the connection.

    A client that takes hardly anything of its answer is cut off without a word: there is no room for one.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._has_begun = False
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_timer()
        self._end_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Hold the answer back until the client has taken what there is."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self._end_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take the next bytes, of a head, a body, or both; once the request is refused nobody looks at them."""
        if self._is_refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self._is_over():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "head-too-large", _TOO_LARGE)
        elif self._has_begun and self._timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._has_begun = True

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large by itself."""
        self._in_head = self._has_begun = False
        self._stop_timer()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            raise HeadTooLarge
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request's body; the next bytes are of another head."""
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, or what was too large for a head."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "head-too-large", _TOO_LARGE)
        else:
            self._refuse(400, "malformed-request", "This is no HTTP/1.1 request.")

    def _is_over(self) -> bool:
        return self._is_refused or self.transport.is_closing()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _head_is_late(self) -> None:
        if self._has_begun:
            self._refuse(408, "head-too-slow", f"The request's head did not come within {HEAD_SECONDS:.0f} s.")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        self._is_refused = True
        title = title_of(status)
        body = json.dumps(
            {
                "type": "about:blank",
                "title": title,
                "status": status,
                "code": code,
                "detail": detail,
                # Of a trace with nothing in it: no request was read.
                "traceId": trace_id_of(continued(None)),
            }
        ).encode()
        head = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        # An answer that is being written would be torn apart by this one.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(head.encode() + body)
        # Closed at once, with bytes unread, the connection would be reset, and the answer lost on its way.
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)


_TOO_LARGE = f"The request line and the headers together have more than {MAX_HEAD_BYTES} bytes."
