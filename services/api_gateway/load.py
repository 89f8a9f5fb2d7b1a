"""How much the gateway does at the same time: what is too much is refused at once, before everything gets slow.

A request that only waits, for a session to change, for its client's bytes, or for the end of a stream, is no work in
hand. It says so by itself: with `resting()`.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, TypeVar

from prometheus_client import Gauge

from services.runtime.at_once import Begun
from services.runtime.time_limits import TimeLimit, Watch

T = TypeVar("T")


class Load:
    """Counts the requests that are worked on, at most `most` (0: no limit), and those that rest."""

    def __init__(self, most: int, most_resting: int, gauge: Gauge) -> None:
        self._most = most
        self._most_resting = most_resting
        self._working = 0
        self._resting = 0
        self.watch = Watch()
        """Of the time limits of all that is worked on."""
        gauge.set_function(lambda: self._working)

    @property
    def is_full(self) -> bool:
        """Whether no more may come in."""
        return self._most > 0 and self._working >= self._most

    @property
    def is_crowded(self) -> bool:
        """Whether so many rest that no more should begin to wait."""
        return self._resting >= self._most_resting

    def move(self, working: int, resting: int) -> None:
        """Count so many more, or less, of each."""
        self._working += working
        self._resting += resting


class _Counted(NamedTuple):
    """What a place counts as, in one state."""

    working: int
    resting: int


_WORKING, _RESTING, _LEFT = _Counted(1, 0), _Counted(0, 1), _Counted(0, 0)


class Place:
    """One request's place among those that are worked on; inside, TimeoutError is raised once its time is over."""

    def __init__(self, load: Load, seconds: float) -> None:
        self.load = load
        self._clock = asyncio.get_running_loop().time
        self._limit = TimeLimit(load.watch, seconds)
        self._state = _LEFT

    def __enter__(self) -> "Place":
        self._limit.__enter__()
        self._become(_WORKING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._become(_LEFT)
        self._limit.__exit__(kind, error, traceback)

    @property
    def is_over(self) -> bool:
        """Whether its time was over before its work was."""
        return self._limit.is_over

    def leave(self) -> None:
        """Give the place up for good: what follows is no work, and may take its time."""
        self._become(_LEFT)
        self._limit.lift()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Count as resting for a while, which is added to the time for work."""
        if self._state is not _WORKING:
            yield
            return
        began, ends = self._clock(), self._limit.ends
        self._become(_RESTING)
        self._limit.ends = math.inf
        try:
            yield
        finally:
            if self._is_resting():
                self._become(_WORKING)
                self._limit.ends = ends + self._clock() - began

    async def rest_for(self, awaitable: Awaitable[T]) -> T:
        """Return what comes of it; while that has to wait, this counts as resting."""
        begun = Begun(awaitable)
        if not begun.has_ended:
            with self.resting():
                await begun
        return begun.result

    def _is_resting(self) -> bool:
        return self._state is _RESTING

    def _become(self, state: _Counted) -> None:
        before, self._state = self._state, state
        self.load.move(state.working - before.working, state.resting - before.resting)


PLACE: ContextVar[Place | None] = ContextVar("place", default=None)


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Let the request that runs here not count as work while it only waits."""
    place = PLACE.get()
    if place is None:
        yield
        return
    with place.resting():
        yield


def is_crowded() -> bool:
    """Tell whether the request that runs here should rather not begin to wait."""
    place = PLACE.get()
    return place is not None and place.load.is_crowded
