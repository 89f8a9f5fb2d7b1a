"""Requests that wait for a session to change."""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID

from services.api_gateway.metrics import GatewayMetrics


class Waiter:
    """One request's interest in one session."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Tell that the session may have changed."""
        self._changed.set()

    async def nap(self, seconds: float) -> None:
        """Return at the next change, one missed since the last nap included, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()


class Waiters:
    """Who waits for which session."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._waiters: dict[str, set[Waiter]] = {}

    @contextlib.contextmanager
    def waiter(self, session_id: UUID) -> Iterator[Waiter]:
        """Lend a Waiter that is woken whenever the session changes."""
        key, waiter = str(session_id), Waiter()
        self._waiters.setdefault(key, set()).add(waiter)
        self._metrics.waiters.inc()
        try:
            yield waiter
        finally:
            self._metrics.waiters.dec()
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]

    def wake(self, session_id: str) -> None:
        """Wake who waits for this session."""
        for waiter in self._waiters.get(session_id, ()):
            waiter.wake()

    def wake_all(self) -> None:
        """Wake everyone."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()
