"""The way to one persona's webhook: who waits gets a turn in the order of arrival."""

import asyncio
import time
from collections import OrderedDict
from typing import NamedTuple

from services.contracts import FailureKind
from services.contracts.replies import Reply
from services.webhook_dispatcher.breaker import BreakerState
from services.webhook_dispatcher.callbacks import Accepted
from services.webhook_dispatcher.delivery import Failed
from services.webhook_dispatcher.health import Health
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.slots import Slots, Turn


class _Waiting(NamedTuple):
    timeout_seconds: float
    expires_at: float
    """By the clock that stands still while the webhook gets on, and while its persona is paused."""
    kept_until: float
    """Monotonic seconds: no longer than this, even while the persona is paused."""


class Gate:
    """One persona's health, and those who wait for a slot to call it."""

    def __init__(self, persona_id: str, slots: Slots, metrics: DispatcherMetrics) -> None:
        self._slots = slots
        self._health = Health(slots.most)
        self._waiting: OrderedDict[asyncio.Future[bool], _Waiting] = OrderedDict()
        self._paused_at: float | None = None
        """Where the stuck clock stood when the persona was paused."""
        self._paused_seconds = 0.0
        """By how much that clock went on during pauses that are over."""
        self._probe: asyncio.TimerHandle | None = None
        self._state = BreakerState.CLOSED
        self._persona_id = persona_id
        self._breaker, self._limit = metrics.breaker, metrics.limit
        self._breaker.set(persona_id, self._state.value)
        self.metrics = metrics.of_persona(persona_id)
        """Of the persona's calls."""
        self.kind = FailureKind.OVERLOADED
        """The last kind of failure by which the webhook showed that it is not well."""

    @property
    def paused(self) -> bool:
        """True while nobody is let in because the persona is paused."""
        return self._paused_at is not None

    def set_paused(self, paused: bool) -> None:
        """Let nobody in until told otherwise, or those who wait in their turn."""
        if paused is self.paused:
            return
        stuck_seconds = self._health.stuck_seconds(time.monotonic())
        if self._paused_at is None:
            self._paused_at = stuck_seconds
        else:
            self._paused_seconds += stuck_seconds - self._paused_at
            self._paused_at = None
            self._slots.want(self)

    async def enter(self, seconds_left: float, timeout_seconds: float, kept_seconds: float) -> float | None:
        """Return, once a call may begin, how many of the seconds are left for it; None if they passed.

        They pass only while the webhook is stuck: waiting for one that answers costs nothing, and nor does a pause,
        in which only `kept_seconds` pass. `expire` sees that they passed. Whoever is let in tells by `note` or
        `abandoned` how the call ended.
        """
        if seconds_left <= 0:
            return None
        is_first = not self._waiting and not self.paused
        answer = self._begin(timeout_seconds) if is_first else Turn.NOT_NOW
        if answer is Turn.TAKEN:
            return seconds_left
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        now = time.monotonic()
        expires_at = self._clock(now) + seconds_left
        self._waiting[turn] = _Waiting(timeout_seconds, expires_at, now + kept_seconds)
        if answer is Turn.BEYOND_SHARE:
            # Else the end of a call, of a pause, or of the time of an open breaker wants slots for all that wait.
            self._slots.want(self)
        try:
            let_in = await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():
                self.abandoned(time.monotonic())
            raise
        finally:
            self._waiting.pop(turn, None)
        left = expires_at - self._clock(time.monotonic())
        if let_in and left <= 0:
            self.abandoned(time.monotonic())
        return left if let_in and left > 0 else None

    def offer(self) -> Turn:
        """Let in who waits longest, if the webhook takes a call and the process has room for it."""
        while self._waiting and not self.paused:
            first = next(iter(self._waiting))
            if first.cancelled():
                del self._waiting[first]
                continue
            turn = self._begin(self._waiting[first].timeout_seconds)
            if turn is Turn.TAKEN:
                del self._waiting[first]
                first.set_result(True)
            return turn
        return Turn.NOT_NOW

    def expire(self) -> None:
        """Send away those whose time has passed. To be called every second or so."""
        now = time.monotonic()
        clock = self._clock(now)
        for turn, waiting in list(self._waiting.items()):
            over = waiting.kept_until <= now if self.paused else waiting.expires_at <= clock
            if over and not turn.done():
                del self._waiting[turn]
                turn.set_result(False)

    def note(self, verdict: Reply | Accepted | Failed, began: float) -> None:
        """The call that began then (monotonic seconds) ended like this; its slot is free."""
        trouble = verdict.kind if isinstance(verdict, Failed) and verdict.unwell else None
        self.kind = trouble or self.kind
        self._health.ended(began, time.monotonic(), unwell=trouble is not None)
        self._leave()

    def abandoned(self, began: float) -> None:
        """The call that began then was broken off from here; its slot is free."""
        self._health.abandoned(began, time.monotonic())
        self._leave()

    def stuck(self) -> bool:
        """Tell whether nothing gets on at all: the breaker is open, calls hang, or the persona is paused."""
        return self.paused or self._health.stuck(time.monotonic())

    def measure(self) -> None:
        """Bring the gauge of the limit up to date."""
        self._limit.set(self._persona_id, 0 if self.paused else self._health.limit)

    def _clock(self, now: float) -> float:
        stuck_seconds = self._health.stuck_seconds(now) if self._paused_at is None else self._paused_at
        return stuck_seconds - self._paused_seconds

    def _begin(self, timeout_seconds: float) -> Turn:
        if not self._slots.allows(self._health.running):
            return Turn.BEYOND_SHARE
        now = time.monotonic()
        if not self._health.begin(now, timeout_seconds):
            self._ask_again_later(now)
            return Turn.NOT_NOW
        self._show_state()
        self._slots.take()
        return Turn.TAKEN

    def _leave(self) -> None:
        self._show_state()
        self._slots.give_back()
        self._slots.want(self)

    def _show_state(self) -> None:
        if self._state is not self._health.state:
            self._state = self._health.state
            self._breaker.set(self._persona_id, self._state.value)

    def _ask_again_later(self, now: float) -> None:
        pause = self._health.seconds_until_probe(now)
        if pause is not None and self._probe is None:
            self._probe = asyncio.get_running_loop().call_later(pause, self._ask_again)

    def _ask_again(self) -> None:
        self._probe = None
        self._slots.want(self)
