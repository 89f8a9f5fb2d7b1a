"""One client's stream: what it is still to be told, bounded, and why it ends."""

import asyncio
from enum import StrEnum

from services.api_gateway.live.frames import event
from services.api_gateway.metrics import GatewayMetrics

RETRY_MS = (1_000, 3_000)
"""After how long a client that is cut off is to come back: any time between these."""
MOST_FRAMES = 1_000
MOST_BYTES = 1024 * 1024
"""Of events that a client has not taken yet, beside what the sockets between hold."""


class End(StrEnum):
    """Why a stream ends."""

    SLOW = "slow"
    """Its client takes less than there is to tell."""
    TOKEN_EXPIRED = "token-expired"  # noqa: S105
    STOPPING = "gateway-stopping"
    LONG = "long-enough"
    """It has been open for as long as one may be: gateways share clients anew."""
    DATABASE_AWAY = "database-away"
    FAILED = "failed"
    """A bug; the log says more."""
    SESSION_ENDED = "session-ended"
    GONE = "gone"
    """The client went."""


class Stream:
    """What is put in leaves in order. Nothing that puts something in ever waits for the client."""

    __slots__ = ("_bytes", "_frames", "_metrics", "_ready", "ended", "taken_at")

    def __init__(self, metrics: GatewayMetrics) -> None:
        self.ended: End | None = None
        self.taken_at = asyncio.get_running_loop().time()
        """When its client was last sent something."""
        self._metrics = metrics
        self._frames: list[bytes] = []
        self._bytes = 0
        self._ready = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether its client has everything."""
        return not self._frames

    def put(self, frame: bytes) -> None:
        """Tell the client this, if it is anything, or end its stream where too much waits already."""
        if self.ended is not None or not frame:
            return
        if len(self._frames) >= MOST_FRAMES or self._bytes > MOST_BYTES:
            self.end(End.SLOW)
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._ready.set()

    def end(self, why: End) -> None:
        """Let the client take what waits, and nothing after it; only the first end counts."""
        if self.ended is None:
            self.ended = why
            self._metrics.live_streams_ended.labels(why).inc()
            self._ready.set()

    async def next(self) -> bytes | None:
        """Return all that waits, once there is something; None when the stream has ended and all was taken."""
        await self._ready.wait()
        if not self._frames:
            return None
        taken, self._frames = self._frames, []
        self._bytes = 0
        if self.ended is None:
            self._ready.clear()
        self.taken_at = asyncio.get_running_loop().time()
        self._metrics.live_events.inc(len(taken))
        return b"".join(taken)


def reconnect(why: End) -> bytes:
    """Return the last event of a stream whose client is to come back, with the id of the last event that it has."""
    return event("reconnect", {"reason": why})
