"""How much the gateway does at the same time: what is too much is refused at once, before everything gets slow.

A request that only waits, for a session to change, for its client's bytes, or for the end of a stream, is no work in
hand. It says so by itself: with `resting()`.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from enum import Enum

from prometheus_client import Gauge


class Load:
    """Counts the requests that are worked on, at most `most` (0: no limit), and those that rest."""

    def __init__(self, most: int, most_resting: int, gauge: Gauge) -> None:
        self._most = most
        self._most_resting = most_resting
        self._gauge = gauge
        self._working = 0
        self._resting = 0

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
        self._gauge.set(self._working)


class _State(Enum):
    WORKING = "working"
    RESTING = "resting"
    LEFT = "left"


_COUNTED = {_State.WORKING: (1, 0), _State.RESTING: (0, 1), _State.LEFT: (0, 0)}
"""What a place in each state counts as: working, resting."""


class Place:
    """One request's place among those that are worked on, and the time it has for its work."""

    def __init__(self, load: Load, deadline: asyncio.Timeout) -> None:
        self.load = load
        self._deadline = deadline
        self._state = _State.LEFT

    def __enter__(self) -> "Place":
        self._become(_State.WORKING)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Give the place up for good: what follows is no work, and has no deadline."""
        self._become(_State.LEFT)
        self._set_deadline(None)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Count as resting for a while, which is added to the deadline."""
        if self._state is not _State.WORKING:
            yield
            return
        clock = asyncio.get_running_loop().time
        began, ends = clock(), self._deadline.when()
        self._become(_State.RESTING)
        self._set_deadline(None)
        try:
            yield
        finally:
            if self._is_resting():
                self._become(_State.WORKING)
                self._set_deadline(None if ends is None else ends + clock() - began)

    def _is_resting(self) -> bool:
        return self._state is _State.RESTING

    def _become(self, state: _State) -> None:
        before, after = _COUNTED[self._state], _COUNTED[state]
        self._state = state
        self.load.move(after[0] - before[0], after[1] - before[1])

    def _set_deadline(self, when: float | None) -> None:
        if not self._deadline.expired():
            self._deadline.reschedule(when)


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
