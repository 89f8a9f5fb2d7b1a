"""Who breaks calls off when their limits pass: one timer for all of them, for one each took a tenth of a call's CPU."""

import asyncio
import time
from types import TracebackType

from services.runtime.time_limits import Watch
from services.webhook_dispatcher.course import Course

LOOK_SECONDS = 0.05
"""A call is broken off so much after its limit, at most: what the watch of all calls is made with."""


class Patience:
    """One call's, to be made inside it: raises TimeoutError there once a limit of the call's course has passed."""

    def __init__(self, watch: Watch, course: Course) -> None:
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

    def look(self) -> None:
        """Break the call off if a limit has passed."""
        ends_at, limit = self._course.next_limit()
        if ends_at <= time.monotonic() and self._passed is None:
            self._passed = self._course.limit_text(limit)
            self._timeout.reschedule(0)  # long ago, by the loop's clock
