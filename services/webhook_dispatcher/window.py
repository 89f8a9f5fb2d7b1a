"""How much of a partition is held at a time, and by whom: pure bookkeeping, no I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.webhook_dispatcher.tracking import Offsets

LOW_WATER = 0.75
"""Of each bound: the level below which a full window takes records again."""
STUCK_SHARE = 0.5
"""Of the window's records and bytes: what one persona that does not get on may hold."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one partition. The batch that reaches a bound is still taken as a whole."""

    records: int
    bytes: int
    span: int
    """Offsets from the lowest unfinished record to the last one taken."""


@dataclass(slots=True)
class _Share:
    records: int = 0
    bytes: int = 0


class Window:
    """The records of a partition that are taken and not finished."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._offsets = Offsets()
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._holders: dict[int, str] = {}
        self._shares: dict[str, _Share] = {}
        self._full = False

    def __len__(self) -> int:
        """Return how many records are held."""
        return len(self._offsets)

    @property
    def full(self) -> bool:
        """True from when a bound is reached until all are low again."""
        return self._full

    def take(self, offset: int, size: int) -> bool:
        """Begin with a record of `size` bytes; False if it was taken before."""
        if not self._offsets.take(offset):
            return False
        self._sizes[offset] = size
        self._bytes += size
        self._full = self._full or self._reaches(1.0)
        return True

    def finish(self, offset: int) -> None:
        """The record needs no more work."""
        self._offsets.finish(offset)
        self.let_go(offset)
        self._bytes -= self._sizes.pop(offset)
        self._full = self._full and self._reaches(LOW_WATER)

    def committable(self) -> int | None:
        """Return the lowest unfinished offset, from which a restart would go on; None before the first record."""
        return self._offsets.committable()

    def hold(self, offset: int, persona_id: str) -> None:
        """The record, taken before, counts for this persona."""
        share = self._shares.setdefault(persona_id, _Share())
        share.records += 1
        share.bytes += self._sizes[offset]
        self._holders[offset] = persona_id

    def let_go(self, offset: int) -> None:
        """The record counts for no persona any more."""
        persona_id = self._holders.pop(offset, None)
        if persona_id is None:
            return
        share = self._shares[persona_id]
        share.records -= 1
        share.bytes -= self._sizes[offset]
        if share.records == 0:
            del self._shares[persona_id]

    def beyond_share(self, persona_id: str) -> bool:
        """Tell whether the persona holds more than one that does not get on may."""
        share = self._shares.get(persona_id)
        return share is not None and (
            share.records > STUCK_SHARE * self._bounds.records or share.bytes > STUCK_SHARE * self._bounds.bytes
        )

    def all_beyond_share(self) -> Iterator[str]:
        """Yield the personas that hold more than one that does not get on may."""
        return (persona_id for persona_id in list(self._shares) if self.beyond_share(persona_id))

    def too_much(self, waiting: Sequence[Sequence[int]]) -> Iterator[int]:
        """Yield which groups of offsets are more than may wait for as long as it takes, the oldest being kept.

        Of groups in the order of their first offsets; what waits together is a group.
        """
        records = size = 0
        for number, offsets in enumerate(waiting):
            records += len(offsets)
            size += sum(self._sizes[offset] for offset in offsets)
            lag = self._offsets.lag(offsets[0])
            if (
                records > STUCK_SHARE * self._bounds.records
                or size > STUCK_SHARE * self._bounds.bytes
                or lag > STUCK_SHARE * self._bounds.span
            ):
                yield number

    def _reaches(self, level: float) -> bool:
        return (
            len(self._offsets) >= level * self._bounds.records
            or self._bytes >= level * self._bounds.bytes
            or self._offsets.span >= level * self._bounds.span
        )
