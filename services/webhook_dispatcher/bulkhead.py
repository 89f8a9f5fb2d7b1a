"""How many calls one persona's webhook takes at a time, found by trying. Pure; time in seconds is an argument.

Additive increase and multiplicative decrease, spread over the calls of a round (as many as the limit allows): a round
of answers adds one place (in the beginning, each answer does), a round of failures takes half of all places, and a
round with a few failures a few. So a webhook that fails now and then keeps its places, and one that is overloaded
loses them.
"""

FIRST_LIMIT = 50
SHORTEST_HANG_SECONDS = 5.0
HANG_FACTOR = 4.0
"""A call that takes so many times as long as the slowest of late hangs, if nothing else is answered meanwhile."""
SLOWEST_FADES = 0.95
"""With each answer, so that one slow answer is forgotten after some tens."""


class Bulkhead:
    """The calls of one persona that run now, and how many may."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(min(FIRST_LIMIT, ceiling))
        self._fast_below = float(ceiling)
        self._running = 0
        self._quiet_since = 0.0
        self._timeout_seconds = 0.0
        self._slowest: float | None = None

    @property
    def limit(self) -> int:
        """How many calls may run, from 1 to the ceiling."""
        return int(self._limit)

    @property
    def running(self) -> int:
        """How many calls run."""
        return self._running

    def admits(self) -> bool:
        """Tell whether one more call may run."""
        return self._running < self.limit

    def begin(self, now: float, timeout_seconds: float) -> None:
        """A call began, and is broken off after its timeout: tell by one of the next three how it ended."""
        if self._running == 0:
            self._quiet_since = now
        self._running += 1
        self._timeout_seconds = timeout_seconds

    def answered(self, began: float, now: float) -> None:
        """The call that began then was answered, whatever was said."""
        if self._running > self._limit / 2:
            self._limit += 1.0 if self._limit < self._fast_below else 1.0 / self._limit
            self._limit = min(self._limit, float(self._ceiling))
        self._running -= 1
        self._quiet_since = now
        self._slowest = max(now - began, SLOWEST_FADES * (self._slowest or 0.0))

    def unwell(self) -> None:
        """A call showed that the webhook is not well: it hung, or was told that there is too much."""
        self._running -= 1
        self._fast_below = self._limit / 2
        self._limit = max(1.0, self._limit - 0.5)

    def abandoned(self) -> None:
        """A call was broken off from here and tells nothing."""
        self._running -= 1

    def recovered(self) -> None:
        """The webhook is well again after a time without calls: find its limit anew."""
        self._fast_below = float(self._ceiling)

    def hanging_since(self, now: float) -> float | None:
        """Return since when the running calls hang, None if they do not.

        They hang when none was answered for much longer than answers took of late; before the first answer, and at
        most, for as long as a call may take.
        """
        if not self._running:
            return None
        patience = self._timeout_seconds
        if self._slowest is not None:
            patience = min(patience, max(SHORTEST_HANG_SECONDS, HANG_FACTOR * self._slowest))
        hanging_since = self._quiet_since + patience
        return hanging_since if now >= hanging_since else None
