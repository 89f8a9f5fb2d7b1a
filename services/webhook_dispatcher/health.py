"""How one persona's webhook is, and whether it may be called. Pure; time in seconds is an argument."""

from services.webhook_dispatcher.breaker import Breaker, BreakerState
from services.webhook_dispatcher.bulkhead import Bulkhead


class Health:
    """One persona's circuit breaker and bulkhead, and for how long it has been stuck.

    Stuck: its breaker is not closed, or its calls hang. One that answers, however slowly, is not.
    """

    def __init__(self, most_calls: int) -> None:
        self._breaker = Breaker()
        self._bulkhead = Bulkhead(most_calls)
        self._stuck_since: float | None = None
        self._stuck_seconds = 0.0

    @property
    def state(self) -> BreakerState:
        """The breaker's state."""
        return self._breaker.state

    @property
    def limit(self) -> int:
        """How many calls may run now."""
        return self._bulkhead.limit

    @property
    def running(self) -> int:
        """How many calls run."""
        return self._bulkhead.running

    def begin(self, now: float, timeout_seconds: float) -> bool:
        """Begin a call if one may begin now; if True, tell by `ended` or `abandoned` how it ended."""
        if not self._bulkhead.admits() or not self._breaker.admits(now):
            return False
        self._bulkhead.begin(now, timeout_seconds)
        return True

    def seconds_until_probe(self, now: float) -> float | None:
        """Return in how many seconds the breaker lets a call through; None where only the end of a call does."""
        waits = self.state is BreakerState.OPEN and self._bulkhead.admits()
        return self._breaker.seconds_until_probe(now) if waits else None

    def ended(self, began: float, now: float, *, unwell: bool) -> None:
        """The call that began then ended; `unwell` if it showed that the webhook is not well."""
        self._observe(now)
        if unwell:
            self._breaker.failed(began, now)
            self._bulkhead.unwell()
        else:
            if self.state is not BreakerState.CLOSED:
                self._bulkhead.recovered()
            self._breaker.succeeded()
            self._bulkhead.answered(began, now)
        self._observe(now)

    def abandoned(self, began: float, now: float) -> None:
        """The call that began then was broken off from here."""
        self._observe(now)
        self._breaker.abandoned(began)
        self._bulkhead.abandoned()
        self._observe(now)

    def stuck(self, now: float) -> bool:
        """Tell whether the webhook does not get on at all."""
        return self.state is not BreakerState.CLOSED or self._bulkhead.hanging_since(now) is not None

    def stuck_seconds(self, now: float) -> float:
        """Return for how long it has been stuck, all in all: a clock that stands still while it gets on."""
        self._observe(now)
        return self._stuck_seconds + (0.0 if self._stuck_since is None else now - self._stuck_since)

    def _observe(self, now: float) -> None:
        hanging_since = self._bulkhead.hanging_since(now)
        if hanging_since is None and self._breaker.state is BreakerState.CLOSED:
            if self._stuck_since is not None:
                self._stuck_seconds += now - self._stuck_since
                self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now if hanging_since is None else hanging_since
