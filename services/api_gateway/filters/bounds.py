"""What a filter says of time: the range in which all its sessions started. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.api_gateway.filters.meaning import Fails, Filter, Is, Range
from services.api_gateway.filters.tree import fold

STARTED = "startedAt"
_STEP = timedelta(milliseconds=1)
"""Sessions start at whole milliseconds."""
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bounds:
    """From `since` up to, not including, `until`; None where there is no such bound."""

    since: datetime | None = None
    until: datetime | None = None


def started_within(tree: Filter) -> Bounds:
    """Return the bounds of the start of every session for which the filter holds."""
    return fold(tree, _of_leaf, every=_common, either=_around, negated=lambda _: Bounds())


def of_range(one: Range) -> Bounds:
    """Return the bounds of a range of startedAt."""
    low, high = one.low, one.high
    return Bounds(
        (low if one.with_low else low + _STEP) if isinstance(low, datetime) else None,
        (high + _STEP if one.with_high else high) if isinstance(high, datetime) else None,
    )


def _of_leaf(leaf: Is | Fails) -> Bounds:
    if not isinstance(leaf, Is) or leaf.field != STARTED:
        return Bounds()
    return _around([of_range(one) for one in leaf.ranges])


def _common(parts: Sequence[Bounds]) -> Bounds:
    since = [part.since for part in parts if part.since is not None]
    until = [part.until for part in parts if part.until is not None]
    return Bounds(max(since, default=None), min(until, default=None))


def _around(parts: Sequence[Bounds]) -> Bounds:
    since = min((part.since or _FIRST for part in parts), default=_FIRST)
    until = max((part.until or _LAST for part in parts), default=_LAST)
    return Bounds(None if since == _FIRST else since, None if until == _LAST else until)
