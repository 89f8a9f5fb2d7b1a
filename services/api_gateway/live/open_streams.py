"""The streams that are open: how many there may be, how long each lasts, and that none falls silent."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from services.api_gateway.auth import Caller
from services.api_gateway.live.frames import STILL_THERE
from services.api_gateway.live.stream import End, Stream
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.problems import Problem

LONGEST_SECONDS = 3600.0
SILENT_SECONDS = 15.0
LOOK_SECONDS = 1.0


class OpenStreams:
    """Lends streams: at most `most` at the same time, and `most_per_user` to one user (0: no limit)."""

    def __init__(self, most: int, most_per_user: int, metrics: GatewayMetrics) -> None:
        self._most = most
        self._most_per_user = most_per_user
        self._metrics = metrics
        self._beats: dict[Stream, Callable[[], bytes]] = {}
        self._of_user: Counter[str] = Counter()
        self._stopping = False

    @contextlib.contextmanager
    def opened(self, caller: Caller, beat: Callable[[], bytes] = lambda: STILL_THERE) -> Iterator[Stream]:
        """Lend a stream that ends with the caller's token at the latest; raise Problem where there are too many.

        `beat` returns what a client is sent to which nothing has been told for a while.
        """
        self._require_room(caller.user_id)
        stream = Stream(self._metrics)
        seconds = min(LONGEST_SECONDS, caller.expires_at - time.time())
        why = End.LONG if seconds == LONGEST_SECONDS else End.TOKEN_EXPIRED
        timer = asyncio.get_running_loop().call_later(max(0.0, seconds), stream.end, why)
        self._beats[stream] = beat
        self._of_user[caller.user_id] += 1
        self._metrics.live_streams.inc()
        try:
            yield stream
        finally:
            timer.cancel()
            del self._beats[stream]
            self._of_user[caller.user_id] -= 1
            if not self._of_user[caller.user_id]:
                del self._of_user[caller.user_id]
            self._metrics.live_streams.dec()

    def stop(self) -> None:
        """End all streams, and lend no more."""
        self._stopping = True
        for stream in self._beats:
            stream.end(End.STOPPING)

    async def run(self) -> None:
        """Keep silent streams alive, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            since = clock() - SILENT_SECONDS
            for stream, beat in self._beats.items():
                if stream.taken_at < since and stream.is_idle:
                    stream.put(beat())

    def _require_room(self, user_id: str) -> None:
        if self._stopping:
            raise Problem(503, "stopping", "This gateway is stopping; try again.", headers={"retry-after": "1"})
        if len(self._beats) >= self._most:
            raise Problem(
                503,
                "too-many-streams",
                f"{self._most} streams are open here, as many as may be; try again.",
                headers={"retry-after": "10"},
            )
        if self._most_per_user and self._of_user[user_id] >= self._most_per_user:
            raise Problem(
                429,
                "too-many-streams",
                f"You have {self._most_per_user} streams open here, as many as one may have; close one.",
                headers={"retry-after": "10"},
            )
