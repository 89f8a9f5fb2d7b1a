"""The calls that one process may run at the same time, shared out among personas."""

from collections import OrderedDict
from enum import Enum
from typing import Protocol

SHARE = 8
"""A persona runs at most so many times as many calls as there are free slots: one alone leaves a ninth of them free, so
that there is room for others when its calls begin to hang."""


class Turn(Enum):
    """What became of a slot that was offered."""

    TAKEN = "taken"
    BEYOND_SHARE = "beyond share"
    NOT_NOW = "not now"
    """Nobody waits, or the persona itself takes no more calls."""


class Taker(Protocol):
    """Who wants slots for one persona."""

    def offer(self) -> Turn:
        """A slot is free: take it for whoever waits longest, if there is somebody."""


class Slots:
    """Offers free slots in rotation, one at a time, so that a persona's long queue does not come before another's."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = most
        self._wanting: OrderedDict[Taker, None] = OrderedDict()

    def taken(self) -> int:
        """Return how many are not free."""
        return self.most - self._free

    def allows(self, running: int) -> bool:
        """Tell whether a persona with so many running calls may have one more slot now."""
        return running < SHARE * self._free

    def take(self) -> None:
        """One slot less is free; ask `allows` beforehand."""
        self._free -= 1

    def give_back(self) -> None:
        """One slot is free again; call `want` next, for the persona that had it or another."""
        self._free += 1

    def want(self, taker: Taker) -> None:
        """Offer slots to this persona in its turn, until it cannot take more, and to the others that wait."""
        self._wanting.setdefault(taker)
        beyond = 0
        while self._free and beyond < len(self._wanting):
            following, _ = self._wanting.popitem(last=False)
            turn = following.offer()
            if turn is not Turn.NOT_NOW:
                self._wanting[following] = None
            beyond = beyond + 1 if turn is Turn.BEYOND_SHARE else 0
