"""Which observations of a histogram lead to their traces."""

import time

from services.runtime.tracing import exemplar

SLOW_SECONDS = 0.25


class Exemplars:
    """Chooses each observation from SLOW_SECONDS on, and of the quicker ones one a second.

    A bucket keeps only its last exemplar, and making one takes longer than observing.
    """

    __slots__ = ("_next_quick_at",)

    def __init__(self) -> None:
        self._next_quick_at = 0.0

    def of(self, traceparent: str | None, seconds: float) -> dict[str, str] | None:
        """Return the exemplar of an observation of so many seconds; None where it has none."""
        if seconds < SLOW_SECONDS:
            now = time.monotonic()
            if now < self._next_quick_at:
                return None
            self._next_quick_at = now + 1.0
        return exemplar(traceparent)
