"""Which lines of a log tell again what was told a moment ago. No I/O; time in monotonic seconds is an argument."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

PERIOD_SECONDS = 60.0
MOST_FAULTS = 1_000
"""Remembered at a time; the one that was told longest ago is forgotten first."""


class Fault(NamedTuple):
    """What makes two lines the same."""

    logger: str
    text: str
    """Before anything is filled in."""
    kind: str
    """The class of the error, or what else tells it from others; empty without one."""


@dataclass(slots=True)
class _Told:
    at: float
    left_out: int = 0
    last: str = ""
    """The last line that was left out."""


class Repeats:
    """Lets one line of each fault through in a period, and counts the others."""

    def __init__(self, period_seconds: float = PERIOD_SECONDS, most: int = MOST_FAULTS) -> None:
        self._period = period_seconds
        self._most = most
        self._told: dict[Fault, _Told] = {}
        """The one that was told longest ago first."""

    def take(self, fault: Fault, now: float, line: Callable[[], str]) -> int | None:
        """Return how many lines were left out since the fault was last told; None where this one is left out too.

        `line` gives its text.
        """
        told = self._told.get(fault)
        if told is not None and now < told.at + self._period:
            told.left_out += 1
            told.last = line()
            return None
        self._told.pop(fault, None)
        if len(self._told) >= self._most:
            del self._told[next(iter(self._told))]
        self._told[fault] = _Told(now)
        return 0 if told is None else told.left_out

    def over(self, now: float) -> Iterator[tuple[Fault, str, int]]:
        """Yield, once, the faults that were left out and of which no line came for a period; forget what is over.

        With each: the last line that was left out, and how many were.
        """
        while self._told:
            fault, told = next(iter(self._told.items()))
            if now < told.at + 2 * self._period:
                return
            del self._told[fault]
            if told.left_out:
                yield fault, told.last, told.left_out
