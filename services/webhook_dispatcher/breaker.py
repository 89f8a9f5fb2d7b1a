"""A circuit breaker: keeps calls from a webhook that is not well. Pure; time in seconds is an argument.

closed ──10 failures in a row──▶ open ──5 s──▶ half-open (one probe) ──▶ closed, or open again
"""

from enum import Enum

FAILURES = 10
"""In a row, of the kind that says the webhook is not well, until it is left alone."""
OPEN_SECONDS = 5.0


class BreakerState(Enum):
    """Values are what the metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """The circuit breaker of one persona."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._opened_at = 0.0
        self._probed_at = 0.0

    def admits(self, now: float) -> bool:
        """Tell whether a call may begin now. True in half-open makes that call the probe: tell how it ended."""
        if self.state is BreakerState.OPEN and now >= self._opened_at + OPEN_SECONDS:
            self.state = BreakerState.HALF_OPEN
            self._probed_at = now
            return True
        return self.state is BreakerState.CLOSED

    def seconds_until_probe(self, now: float) -> float | None:
        """Return when asking again is worth it; None while a probe runs, whose end will tell."""
        if self.state is BreakerState.HALF_OPEN:
            return None
        return max(0.0, self._opened_at + OPEN_SECONDS - now) if self.state is BreakerState.OPEN else 0.0

    def succeeded(self) -> None:
        """A call was answered: the webhook is there, whatever it said."""
        self.state = BreakerState.CLOSED
        self._failures = 0

    def failed(self, began: float, now: float) -> None:
        """The call that began then showed that the webhook is not well."""
        self._failures += 1
        if self._is_probe(began) or (self.state is BreakerState.CLOSED and self._failures >= FAILURES):
            self.state = BreakerState.OPEN
            self._opened_at = now

    def abandoned(self, began: float) -> None:
        """The call that began then ended without telling anything: if it was the probe, the next call is."""
        if self._is_probe(began):
            self.state = BreakerState.OPEN

    def _is_probe(self, began: float) -> bool:
        # Calls from before it opened may run on beside the probe.
        return self.state is BreakerState.HALF_OPEN and began >= self._probed_at
