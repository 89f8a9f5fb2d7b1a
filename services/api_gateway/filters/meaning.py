"""The terms of a filter become what they mean of a session: which fields there are, and what each takes. No I/O."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from services.api_gateway.filters import values
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.grammar import Operator, Parsed, Says, Term, Test, parse
from services.api_gateway.filters.tree import And, Leaf, Tree, leaves, replaced
from services.contracts.session import FailureKind, SessionStatus

Value = str | int | datetime | UUID


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, either of which may be missing or may not itself belong to it."""

    low: int | datetime | None = None
    high: int | datetime | None = None
    with_low: bool = True
    with_high: bool = True


@dataclass(frozen=True, slots=True)
class Is:
    """The field has one of the values, or lies in one of the ranges. A session without the field has neither.

    `key` is that of a metadata entry, whose values are JSON texts.
    """

    field: str
    values: tuple[Value, ...] = ()
    ranges: tuple[Range, ...] = ()
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Fails:
    """The error message has this text in it, whatever the case."""

    text: str


Filter = Tree[Is | Fails]
EVERYTHING: Filter = And(())


@dataclass(frozen=True, slots=True)
class Field:
    """What a field's values are read as, and whether it is compared by them, by their order, or by both.

    `words` are all of its values, where these are few.
    """

    read: Callable[[str], Value]
    equal: bool = True
    ordered: bool = False
    words: tuple[str, ...] = ()


METADATA = "metadata"
TAG = "tag"
USER = "user"
PERSONA = "persona"
FIELDS: Mapping[str, Field] = {
    "status": Field(values.word_of(SessionStatus), words=tuple(SessionStatus)),
    PERSONA: Field(values.identifier),
    "conversation": Field(values.identifier),
    USER: Field(values.identifier),
    "failure": Field(values.word_of(FailureKind), words=tuple(FailureKind)),
    "template": Field(values.identifier),
    "templateVersion": Field(values.whole_number, ordered=True),
    TAG: Field(values.identifier),
    "resumedFrom": Field(values.session_id),
    METADATA: Field(str),
    "responseMs": Field(values.whole_number, ordered=True),
    "attempts": Field(values.whole_number, ordered=True),
    "startedAt": Field(values.time_to_the_millisecond, equal=False, ordered=True),
    "endedAt": Field(values.time, equal=False, ordered=True),
    "lastActivityAt": Field(values.time, equal=False, ordered=True),
}
_ORDER = (">value", ">=value", "<value", "<=value", "value..value")


def understood(parsed: Parsed, fields: Collection[str] = FIELDS) -> Filter:
    """Return what the filter means, of these fields; raise InvalidFilter at the first term that means nothing."""
    return replaced(parsed, partial(_leaf, fields))


def names(tree: Filter, field: str) -> bool:
    """Return whether the filter says anything of the field."""
    return any(isinstance(leaf, Is) and leaf.field == field for leaf, _ in leaves(tree))


def users_named(text: str) -> set[str]:
    """Return the users whom a filter names; raise InvalidFilter where it means nothing."""
    found = [leaf for leaf, _ in leaves(understood(parse(text)))]
    return {str(value) for leaf in found if isinstance(leaf, Is) and leaf.field == USER for value in leaf.values}


def _leaf(fields: Collection[str], term: Term | Says) -> Filter:
    if isinstance(term, Says):
        return Leaf(Fails(term.text))
    if term.field not in fields:
        raise InvalidFilter(f"There is no field {term.field} here.", term.position, _shown(fields))
    if (term.key is not None) != (term.field == METADATA):
        wrong = "metadata needs a key" if term.key is None else f"{term.field} has no keys"
        raise InvalidFilter(f"{wrong}.", term.position, _shown(fields))
    if term.key is not None:
        return Leaf(Is(METADATA, tuple(json for test in term.tests for json in _entry(test)), key=term.key))
    read = [_compared(term.field, test) for test in term.tests]
    ranges = tuple(one for one in read if isinstance(one, Range))
    return Leaf(Is(term.field, tuple(one for one in read if not isinstance(one, Range)), ranges))


def _entry(test: Test) -> tuple[str, ...]:
    if test.operator is not Operator.EQUAL:
        raise InvalidFilter("Metadata is compared by equality only; quote a value with .. in it.", test.position)
    _no_wildcard(test)
    return values.json_scalars(test.values[0], quoted=test.quoted)


def _compared(name: str, test: Test) -> Value | Range:
    field = FIELDS[name]
    if not (field.equal if test.operator is Operator.EQUAL else field.ordered):
        raise _wrongly_compared(name, field, test.position)
    _no_wildcard(test)
    try:
        read = [field.read(value) for value in test.values]
    except ValueError as error:
        why = f"{name} has no such value." if field.words else f"{name}: {error}"
        raise InvalidFilter(why, test.position, field.words) from None
    return read[0] if test.operator is Operator.EQUAL else _range(test, *read)


def _wrongly_compared(name: str, field: Field, position: int) -> InvalidFilter:
    if field.equal:
        example = f"{name}:{field.words[0] if field.words else 'value'}"
        return InvalidFilter(f"{name} has no order: write such as {example}; quote a value with .. in it.", position)
    example = f"{name}:>=2026-11-22 or {name}:2026-11-22..2026-11-23"
    return InvalidFilter(f"{name} is compared by its order: write such as {example}.", position, _ORDER)


def _range(test: Test, first: Any, last: Any = None) -> Range:
    match test.operator:
        case Operator.ABOVE | Operator.FROM:
            return Range(low=first, with_low=test.operator is Operator.FROM)
        case Operator.BELOW | Operator.UP_TO:
            return Range(high=first, with_high=test.operator is Operator.UP_TO)
    if first > last:
        raise InvalidFilter("The range ends before it begins.", test.position)
    return Range(first, last)


def _no_wildcard(test: Test) -> None:
    if not test.quoted and any("*" in value for value in test.values):
        raise InvalidFilter("There are no wildcards; quote a value that has * in it.", test.position)


def _shown(fields: Collection[str]) -> list[str]:
    return [f"{METADATA}.KEY" if name == METADATA else name for name in fields]
