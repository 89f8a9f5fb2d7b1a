"""Who breaks calls off when their limits pass: one timer for all of them, for one each took a tenth of a call's CPU."""

import asyncio
import time
from types import TracebackType

from services.webhook_dispatcher.course import Course

LOOK_SECONDS = 0.05
"""A call is broken off so much after its limit, at most."""


class Patience:
    """One call's, to be made inside it: raises TimeoutError there once a limit of the call's course has passed."""

    def __init__(self, watch: "Watch", course: Course) -> None:
        self._watch = watch
        self._course = course
        self._timeout = asyncio.timeout(None)
        self._passed: str | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._watch.begin(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.end(self)
        await self._timeout.__aexit__(kind, error, traceback)

    @property
    def exceeded(self) -> str | None:
        """Which limit the call was broken off by, as a half-sentence; None if it was not."""
        return self._passed if self._timeout.expired() else None

    def look(self, now: float) -> None:
        """Break the call off if a limit has passed at `now`, in monotonic seconds."""
        ends_at, limit = self._course.next_limit()
        if ends_at <= now and self._passed is None:
            self._passed = self._course.limit_text(limit)
            self._timeout.reschedule(0)  # long ago, by the loop's clock


class Watch:
    """Looks at all calls that run, twenty times a second."""

    def __init__(self) -> None:
        self._watched: set[Patience] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, patience: Patience) -> None:
        """Look at this one from now on."""
        self._watched.add(patience)
        if self._timer is None:
            self._look_again()

    def end(self, patience: Patience) -> None:
        """Look at this one no more."""
        self._watched.remove(patience)

    def close(self) -> None:
        """Look no more at all."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for patience in self._watched:
            patience.look(now)
        if self._watched:
            self._look_again()

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
