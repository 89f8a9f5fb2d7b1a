"""Time limits that cost no timer each: for one that hardly ever ends anything, that takes longer than all else."""

import asyncio
import math
from types import TracebackType
from typing import Protocol

LOOK_SECONDS = 0.25
"""What takes too long is ended so much later, at most, unless its watch says otherwise."""


class Watched(Protocol):
    """What may take too long."""

    def look(self) -> None:
        """End it if its time is over."""


class Watch:
    """One timer looks at them all, every so many seconds for as long as there are any."""

    def __init__(self, look_seconds: float = LOOK_SECONDS) -> None:
        self._look_seconds = look_seconds
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, one: Watched) -> None:
        """Look at this one from now on."""
        self._watched.add(one)
        if self._timer is None:
            self._look_again()

    def end(self, one: Watched) -> None:
        """Look at this one no more."""
        self._watched.discard(one)

    def close(self) -> None:
        """Look no more at all."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        for one in self._watched:
            one.look()
        if self._watched:
            self._look_again()

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._look_seconds, self._look)


class TimeLimit:
    """Within it TimeoutError is raised once its time is over, as by `asyncio.timeout`."""

    __slots__ = ("_cancelling", "_task", "_watch", "ends", "is_over")

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch = watch
        self.ends = asyncio.get_running_loop().time() + seconds
        """By the loop's clock; it may be moved."""
        self.is_over = False

    def __enter__(self) -> "TimeLimit":
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task, self._cancelling = task, task.cancelling()
        self._watch.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.end(self)
        if self.is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def look(self) -> None:
        """End what runs within if its time is over."""
        if self.ends <= asyncio.get_running_loop().time():
            self.end_now()

    def end_now(self) -> None:
        """End what runs within, whatever its time."""
        self.ends, self.is_over = math.inf, True
        self._task.cancel()

    def lift(self) -> None:
        """Let what follows take its time."""
        self.ends = math.inf
        self._watch.end(self)
