"""How often a user may call: sliding windows of one minute, kept in this process. No I/O, and time is an argument.

`limiting` decides whether they are asked, or counts that several gateways share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.api_gateway.cache import BoundedCache

WINDOW_SECONDS = 60.0
KEPT_WINDOWS = 100_000
_WINDOW = round(WINDOW_SECONDS)


class Verdict(NamedTuple):
    """What a limit says to one request."""

    name: str
    limit: int
    allowed: bool
    remaining: int
    reset_seconds: int
    """Until the window is over; for a refused request, until one is allowed again."""


def told_in_headers(verdicts: Sequence[Verdict]) -> list[tuple[bytes, bytes]]:
    """Return the RateLimit header fields (draft-ietf-httpapi-ratelimit-headers), each a list of all limits."""
    policies = [f'"{verdict.name}";q={verdict.limit};w={_WINDOW}' for verdict in verdicts]
    left = [f'"{verdict.name}";r={verdict.remaining};t={verdict.reset_seconds}' for verdict in verdicts]
    return [(b"ratelimit-policy", ", ".join(policies).encode()), (b"ratelimit", ", ".join(left).encode())]


def verdict_of(name: str, limit: int, *, allowed: bool, count: int, before: int, left: float) -> Verdict:
    """Return the verdict of a sliding window that has `count` requests, the window before it `before`.

    The window is over in `left` seconds; the counts are those after the request.
    """
    if not allowed:
        return Verdict(name, limit, False, 0, _seconds_until_allowed(limit, count, before, left))
    used = count + before * left / WINDOW_SECONDS
    return Verdict(name, limit, True, max(0, int(limit - used)), math.ceil(left))


def _seconds_until_allowed(limit: int, count: int, before: int, left: float) -> int:
    room = limit - 1 - count
    if room < 0 or before == 0:
        # This window is full by itself: it must first become the one before, and then fade.
        faded = WINDOW_SECONDS * (1 - (limit - 1) / max(count, 1))
        return math.ceil(left + max(0.0, faded))
    return max(1, math.ceil(left - WINDOW_SECONDS * room / before))


@dataclass(slots=True)
class _Window:
    began: float
    count: int
    before: int
    """Requests of the window before this one."""


class RateLimit:
    """Allows `most` requests per key in any minute, counted as a sliding window of two halves (0: no limit).

    The window before counts for the share of it that still lies within the last minute: constant memory a key, and
    never more than the limit from a steady caller.
    """

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self._windows: BoundedCache[str, _Window] = BoundedCache(KEPT_WINDOWS)

    def hit(self, key: str, now: float) -> Verdict | None:
        """Count one request at `now` (seconds, never going back) if it is allowed; None where there is no limit."""
        if self.most == 0:
            return None
        window = self._window(key, now)
        left = WINDOW_SECONDS - (now - window.began)
        used = window.count + window.before * left / WINDOW_SECONDS
        allowed = used + 1 <= self.most
        window.count += allowed
        return verdict_of(self.name, self.most, allowed=allowed, count=window.count, before=window.before, left=left)

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
