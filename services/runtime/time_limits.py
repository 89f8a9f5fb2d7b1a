"""Time limits that cost no timer each: for one that hardly ever ends anything, that takes longer than all else."""

import asyncio
import math
from types import TracebackType

LOOK_SECONDS = 0.25
"""What takes too long is ended so much later, at most."""


class TimeLimits:
    """One timer looks at them all."""

    def __init__(self) -> None:
        self._running: set[TimeLimit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, limit: "TimeLimit") -> None:
        """Look at this one from now on."""
        self._running.add(limit)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def forget(self, limit: "TimeLimit") -> None:
        """Look at this one no more."""
        self._running.discard(limit)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for limit in self._running:
            limit.look(loop.time())
        if self._running:
            self._timer = loop.call_later(LOOK_SECONDS, self._look)


class TimeLimit:
    """Within it TimeoutError is raised once its time is over, as by `asyncio.timeout`."""

    __slots__ = ("_cancelling", "_limits", "_task", "ends", "is_over")

    def __init__(self, limits: TimeLimits, seconds: float) -> None:
        self._limits = limits
        self.ends = asyncio.get_running_loop().time() + seconds
        """By the loop's clock; it may be moved."""
        self.is_over = False

    def __enter__(self) -> "TimeLimit":
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task, self._cancelling = task, task.cancelling()
        self._limits.watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limits.forget(self)
        if self.is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def look(self, now: float) -> None:
        """End what runs within if its time is over at `now`."""
        if self.ends <= now:
            self.ends, self.is_over = math.inf, True
            self._task.cancel()

    def lift(self) -> None:
        """Let what follows take its time."""
        self.ends = math.inf
        self._limits.forget(self)
