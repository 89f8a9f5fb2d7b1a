"""When a process that died is started again, and when that is no use any more. Pure: time is an argument."""

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
MOST_DEATHS = 5
WRONG_SETTINGS = 2
"""The exit code of a process that refuses its settings: another start would end alike."""


@dataclass(frozen=True, slots=True)
class StartAgain:
    """Start the process again after `delay_seconds`."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop everything; `reason` completes the sentence that begins with the process's name."""

    reason: str


def after_death(deaths: Sequence[float], now: float, exit_code: int) -> StartAgain | GiveUp:
    """Decide what follows a death: `deaths` are the times of all of this process's deaths, the last one included."""
    if exit_code == WRONG_SETTINGS:
        return GiveUp("refused its settings")
    recent = sum(1 for death in deaths if now - death < WINDOW_SECONDS)
    if recent >= MOST_DEATHS:
        return GiveUp(f"ended {recent} times within a minute")
    return StartAgain(min(0.25 * 2 ** (recent - 1), 5.0))
