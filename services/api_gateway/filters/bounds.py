"""What a filter says of time, and which filters the statistics can answer. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.meaning import PERSONA, USER, Fails, Filter, Is, Range
from services.api_gateway.filters.tree import And, Leaf, fold

STARTED = "startedAt"
_SUBJECTS = (USER, PERSONA)
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


@dataclass(frozen=True, slots=True)
class Subject:
    """What rollups are kept by: the sessions of a user, of a persona, of both or of everyone, that started within."""

    user: str | None
    persona: str | None
    bounds: Bounds


def subject(tree: Filter) -> Subject:
    """Return what the filter asks for, where that is all it does; raise InvalidFilter where it asks for more."""
    single: dict[str, str] = {}
    bounds: list[Bounds] = []
    for leaf in _conditions(tree):
        if leaf.field == STARTED and len(leaf.ranges) == 1:
            bounds.append(of_range(leaf.ranges[0]))
        elif leaf.field in _SUBJECTS and len(leaf.values) == 1 and leaf.field not in single:
            single[leaf.field] = str(leaf.values[0])
        else:
            raise _not_counted(leaf.field)
    return Subject(single.get(USER), single.get(PERSONA), _common(bounds))


def of_range(one: Range) -> Bounds:
    """Return the bounds of a range of startedAt."""
    low, high = one.low, one.high
    return Bounds(
        (low if one.with_low else low + _STEP) if isinstance(low, datetime) else None,
        (high + _STEP if one.with_high else high) if isinstance(high, datetime) else None,
    )


def _conditions(tree: Filter) -> Iterator[Is]:
    """Yield what a filter asks for, all of it."""
    match tree:
        case And(parts):
            for part in parts:
                yield from _conditions(part)
        case Leaf(Is() as leaf):
            yield leaf
        case Leaf(Fails()):
            raise _not_counted("text")
        case _:
            raise _not_counted("OR and NOT")


def _not_counted(what: str) -> InvalidFilter:
    return InvalidFilter(
        f"Statistics are kept by user, persona and time alone, each asked for once; this asks for {what}.",
        None,
        (USER, PERSONA, STARTED),
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
