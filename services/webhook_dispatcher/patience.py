"""Who breaks calls off when their limits pass: one timer for all of them, for one each took a tenth of a call's CPU."""

import math
import time

from services.runtime.time_limits import TimeLimit, Watch
from services.webhook_dispatcher.course import Course


class Patience(TimeLimit):
    """One call's, to be made inside it: raises TimeoutError there once a limit of the call's course has passed."""

    __slots__ = ("_course", "exceeded")

    def __init__(self, watch: Watch, course: Course) -> None:
        super().__init__(watch, math.inf)
        self._course = course
        self.exceeded: str | None = None
        """Which limit the call was broken off by, as a half-sentence; None if it was not."""

    def look(self) -> None:
        """Break the call off if a limit has passed."""
        ends_at, limit = self._course.next_limit()
        if ends_at <= time.monotonic() and not self.is_over:
            self.exceeded = self._course.limit_text(limit)
            self.end_now()
