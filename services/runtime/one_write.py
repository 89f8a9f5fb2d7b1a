"""An answer's head and body leave together."""

import asyncio
from typing import Any


class OneWrite:
    """A transport that joins what is written at once: each write is a call of the system, and wakes the client.

    What nothing follows at once leaves in the loop's next round. All but writing and ending is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        """Return the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data, in order."""
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def write_eof(self) -> None:
        """Send what there is, and that no more will come."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what there is, and close the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held and not self._transport.is_closing():
            data, self._held = self._held, b""
            self._transport.write(data)
