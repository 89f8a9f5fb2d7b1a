"""What a filter is made of: leaves, joined by and, or and not. No I/O."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

L = TypeVar("L")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Leaf(Generic[L]):
    """One thing that a session is, or is not."""

    of: L


@dataclass(frozen=True, slots=True)
class Not(Generic[L]):
    """Holds where its part does not: also where the session lacks what its part asks about."""

    part: "Tree[L]"


@dataclass(frozen=True, slots=True)
class And(Generic[L]):
    """Holds where all its parts do; without parts, everywhere."""

    parts: tuple["Tree[L]", ...]


@dataclass(frozen=True, slots=True)
class Or(Generic[L]):
    """Holds where one of its parts does."""

    parts: tuple["Tree[L]", ...]


Tree: TypeAlias = Leaf[L] | Not[L] | And[L] | Or[L]


def fold(
    tree: Tree[L],
    leaf: Callable[[L], T],
    *,
    every: Callable[[Sequence[T]], T],
    either: Callable[[Sequence[T]], T],
    negated: Callable[[T], T],
) -> T:
    """Return what the tree comes to, from its leaves upwards and from left to right."""

    def of(part: Tree[L]) -> T:
        if isinstance(part, Leaf):
            return leaf(part.of)
        if isinstance(part, Not):
            return negated(of(part.part))
        join = every if isinstance(part, And) else either
        return join([of(one) for one in part.parts])

    return of(tree)


def replaced(tree: Tree[L], leaf: Callable[[L], Tree[T]]) -> Tree[T]:
    """Return the same tree with what `leaf` makes of each leaf in its place, from left to right."""
    if isinstance(tree, Leaf):
        return leaf(tree.of)
    if isinstance(tree, Not):
        return Not(replaced(tree.part, leaf))
    parts = tuple(replaced(part, leaf) for part in tree.parts)
    return And(parts) if isinstance(tree, And) else Or(parts)


def leaves(tree: Tree[L]) -> Iterator[tuple[L, int]]:
    """Yield every leaf and how many joints lie above it. Needs no stack, so that any tree can be measured."""
    waiting = [(tree, 0)]
    while waiting:
        part, level = waiting.pop()
        if isinstance(part, Leaf):
            yield part.of, level
        else:
            parts = (part.part,) if isinstance(part, Not) else part.parts
            waiting.extend((one, level + 1) for one in reversed(parts))
