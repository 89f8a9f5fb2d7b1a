"""The way to one persona's webhook: open or closed by its circuit breaker."""

import asyncio
import contextlib
import time

from services.contracts import FailureKind
from services.contracts.replies import Reply
from services.webhook_dispatcher.breaker import Breaker
from services.webhook_dispatcher.callbacks import Accepted
from services.webhook_dispatcher.delivery import Failed
from services.webhook_dispatcher.metrics import DispatcherMetrics


class Gate:
    """One persona's breaker, and those who wait for it."""

    def __init__(self, persona_id: str, metrics: DispatcherMetrics) -> None:
        self._breaker = Breaker()
        self._changed = asyncio.Event()
        self._shown = metrics.breaker.labels(persona_id)
        self.kind = FailureKind.OVERLOADED
        """The last kind of failure by which the webhook showed that it is not well."""

    def admits(self) -> bool:
        """Tell whether a call may begin now; if so, tell by `note` or `abandoned` how it ended."""
        before = self._breaker.state
        admitted = self._breaker.admits(time.monotonic())
        if self._breaker.state is not before:
            self._tell()
        return admitted

    def note(self, verdict: Reply | Accepted | Failed) -> None:
        """A call ended like this."""
        before = self._breaker.state
        if isinstance(verdict, Failed) and verdict.unwell:
            self.kind = verdict.kind
            self._breaker.failed(time.monotonic())
        else:
            self._breaker.succeeded()
        if self._breaker.state is not before:
            self._tell()

    def abandoned(self) -> None:
        """A call was broken off from here."""
        before = self._breaker.state
        self._breaker.abandoned()
        if self._breaker.state is not before:
            self._tell()

    async def wait(self, deadline: float) -> bool:
        """Return True when it is worth asking again, False once the deadline (monotonic seconds) has passed."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        pause = self._breaker.seconds_until_probe(time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left if pause is None else min(left, pause)):
                await self._changed.wait()
        return time.monotonic() < deadline

    def _tell(self) -> None:
        self._shown.set(self._breaker.state.value)
        self._changed.set()
        self._changed = asyncio.Event()
