"""What a filter means becomes a condition of PostgreSQL. Every value is a bound parameter.

Filters of one form differ in their values alone: what is written for one of them serves them all.
"""

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, bindparam, cast, false, literal, or_, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from services.api_gateway.filters.bounds import STARTED, of_range
from services.api_gateway.filters.meaning import METADATA, TAG, Fails, Filter, Is, Range
from services.api_gateway.filters.tree import Leaf, Tree, fold, leaves, replaced
from services.api_gateway.template_bodies import TAGS
from services.database.partitions import id_at
from services.database.tables import chat_sessions

Columns = Mapping[str, ColumnElement[Any]]
"""The columns of a session, by their names in Python."""

SESSION: Columns = dict(chat_sessions.c.items())
_COLUMNS: Mapping[str, str] = {
    "status": "status",
    "persona": "persona_id",
    "conversation": "conversation_id",
    "user": "user_id",
    "failure": "failure_kind",
    "template": "template_id",
    "templateVersion": "template_version",
    "resumedFrom": "resumed_from",
    "responseMs": "response_ms",
    "attempts": "attempts",
    "endedAt": "ended_at",
    "lastActivityAt": "last_activity_at",
    # By the id, which is the time of the start: the key finds its months and rows.
    STARTED: "session_id",
}
_COMPARED = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_ESCAPE = "/"

Given = Callable[[TypeEngine[Any]], ColumnElement[Any]]
"""Gives the next value, or the parameter that stands for it."""


@dataclass(frozen=True, slots=True)
class Form:
    """A leaf without its values: how many there are, and how each range is compared with."""

    field: str | None
    """None: the text of an error message."""
    values: int = 0
    ranges: tuple[tuple[str, ...], ...] = ()


def condition(tree: Filter) -> ColumnElement[bool]:
    """Return what holds of exactly the rows of chat_sessions for which the filter does."""
    values = iter(values_of(tree))
    return _condition(form_of(tree), lambda kind: literal(next(values), kind), SESSION)


def form_of(tree: Filter) -> Tree[Form]:
    """Return the filter's form."""
    return replaced(tree, _form)


def values_of(tree: Filter) -> list[Any]:
    """Return the filter's values in the order in which the condition of its form takes them."""
    return [value for leaf, _ in leaves(tree) for value in _values(leaf)]


def condition_of(form: Tree[Form], columns: Columns = SESSION) -> ColumnElement[bool]:
    """Return the condition of every filter of the form; its parameters are v0, v1, …

    It is one of rows of chat_sessions, or of others that have its columns.
    """
    numbers = count()
    return _condition(form, lambda kind: bindparam(f"v{next(numbers)}", type_=kind), columns)


def _condition(form: Tree[Form], given: Given, columns: Columns) -> ColumnElement[bool]:
    return fold(
        form,
        lambda leaf: _of_leaf(leaf, given, columns),
        every=lambda parts: and_(true(), *parts),
        either=lambda parts: or_(false(), *parts),
        # A comparison with NULL is neither true nor false: NOT would lose the sessions that lack the field.
        negated=lambda part: part.is_not(true()),
    )


def _of_leaf(leaf: Form, given: Given, columns: Columns) -> ColumnElement[bool]:
    if leaf.field is None:
        return columns["error_message"].icontains(given(Text()), escape=_ESCAPE)
    if leaf.field == METADATA:
        entry = columns["metadata"][given(Text())]
        return or_(false(), *(entry == cast(given(Text()), JSONB) for _ in range(leaf.values)))
    if leaf.field == TAG:
        tags = columns["metadata"][TAGS]
        return or_(false(), *(tags.contains(cast(given(Text()), JSONB)) for _ in range(leaf.values)))
    column = columns[_COLUMNS[leaf.field]]
    among = [column.in_([given(column.type) for _ in range(leaf.values)])] if leaf.values else []
    within = (and_(true(), *(_COMPARED[how](column, given(column.type)) for how in one)) for one in leaf.ranges)
    return or_(false(), *among, *within)


def _form(leaf: Is | Fails) -> Tree[Form]:
    if isinstance(leaf, Fails):
        return Leaf(Form(None))
    ranges = (tuple(how for how, _ in ends) for ends in _ends(leaf))
    return Leaf(Form(leaf.field, len(leaf.values), tuple(ranges)))


def _values(leaf: Is | Fails) -> list[Any]:
    if isinstance(leaf, Fails):
        return [_escaped(leaf.text)]
    if leaf.field == TAG:
        return [json.dumps(value) for value in leaf.values]
    key = [] if leaf.key is None else [leaf.key]
    return [*key, *leaf.values, *(end for ends in _ends(leaf) for _, end in ends)]


def _ends(leaf: Is) -> list[list[tuple[str, Any]]]:
    """Return how each range of the leaf is compared with, and with what."""
    return [[(how, end) for how, end in _ends_of(leaf.field, one) if end is not None] for one in leaf.ranges]


def _ends_of(field: str, one: Range) -> list[tuple[str, Any]]:
    if field == STARTED:
        bounds = of_range(one)
        return [(">=", bounds.since and id_at(bounds.since)), ("<", bounds.until and id_at(bounds.until))]
    return [(">=" if one.with_low else ">", one.low), ("<=" if one.with_high else "<", one.high)]


def _escaped(text: str) -> str:
    for special in (_ESCAPE, "%", "_"):
        text = text.replace(special, _ESCAPE + special)
    return text
