"""Which refused acts get an entry of their own in the audit log, so that a flood of them does not flood it. No I/O."""

from dataclasses import dataclass
from typing import NamedTuple

from services.database.audit import ActorKind
from services.database.audit_words import Action

MOST = 100
"""Actors and actions that get entries in one period."""


class Refused(NamedTuple):
    """Who was refused what."""

    kind: ActorKind
    actor: str
    action: Action


@dataclass(frozen=True, slots=True)
class Repeats:
    """Refusals of one period that have no entry of their own; `of` is None for all that were beyond the bound."""

    of: Refused | None
    count: int


class Refusals:
    """Of each actor and action the first refusal of a period is written at once; the others are counted.

    The counts are written when the period ends: at most 2 * MOST + 1 entries a period, whatever comes.
    """

    def __init__(self) -> None:
        self._repeats: dict[Refused, int] = {}
        self._beyond = 0

    def is_first(self, refused: Refused) -> bool:
        """Count the refusal; return whether it is to be written at once."""
        if refused in self._repeats:
            self._repeats[refused] += 1
        elif len(self._repeats) < MOST:
            self._repeats[refused] = 0
            return True
        else:
            self._beyond += 1
        return False

    def end_period(self) -> list[Repeats]:
        """Return what was counted and not written, and begin anew."""
        repeats = [Repeats(refused, count) for refused, count in self._repeats.items() if count]
        if self._beyond:
            repeats.append(Repeats(None, self._beyond))
        self._repeats.clear()
        self._beyond = 0
        return repeats
