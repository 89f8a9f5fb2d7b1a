"""How often a user may call: sliding windows of one minute, kept in this process. No I/O, and time is an argument."""

import math
from dataclasses import dataclass

from services.api_gateway.cache import BoundedCache

WINDOW_SECONDS = 60.0
KEPT_WINDOWS = 100_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a limit says to one request."""

    name: str
    limit: int
    allowed: bool
    remaining: int
    reset_seconds: int
    """Until the window is over; for a refused request, until one is allowed again."""

    @property
    def headers(self) -> dict[str, str]:
        """The RateLimit header fields, and Retry-After for a refused request."""
        headers = {
            "ratelimit-policy": f'"{self.name}";q={self.limit};w={WINDOW_SECONDS:.0f}',
            "ratelimit": f'"{self.name}";r={self.remaining};t={self.reset_seconds}',
        }
        return headers if self.allowed else {**headers, "retry-after": str(self.reset_seconds)}


@dataclass(slots=True)
class _Window:
    began: float
    count: int
    before: int
    """Requests of the window before this one."""


class RateLimit:
    """Allows `limit` requests per key in any minute, counted as a sliding window of two halves (0: no limit).

    The window before counts for the share of it that still lies within the last minute: constant memory a key, and
    never more than the limit from a steady caller.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._windows: BoundedCache[str, _Window] = BoundedCache(KEPT_WINDOWS)

    def hit(self, key: str, now: float) -> Verdict | None:
        """Count one request at `now` (seconds, never going back) if it is allowed; None where there is no limit."""
        if self._limit == 0:
            return None
        window = self._window(key, now)
        left = WINDOW_SECONDS - (now - window.began)
        used = window.count + window.before * left / WINDOW_SECONDS
        if used + 1 > self._limit:
            return Verdict(self._name, self._limit, False, 0, self._seconds_until_allowed(window, left))
        window.count += 1
        return Verdict(self._name, self._limit, True, max(0, int(self._limit - used - 1)), math.ceil(left))

    def _window(self, key: str, now: float) -> _Window:
        window = self._windows.get(key)
        began = now - now % WINDOW_SECONDS
        if window is None:
            window = _Window(began, 0, 0)
            self._windows.put(key, window)
        elif began > window.began:
            window.before = window.count if began - window.began == WINDOW_SECONDS else 0
            window.began, window.count = began, 0
        return window

    def _seconds_until_allowed(self, window: _Window, left: float) -> int:
        room = self._limit - 1 - window.count
        if room < 0 or window.before == 0:
            # This window is full by itself: it must first become the one before, and then fade.
            faded = WINDOW_SECONDS * (1 - (self._limit - 1) / max(window.count, 1))
            return math.ceil(left + max(0.0, faded))
        return max(1, math.ceil(left - WINDOW_SECONDS * room / window.before))
