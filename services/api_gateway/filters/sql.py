"""What a filter means becomes a condition of PostgreSQL. Every value is a bound parameter."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, cast, false, literal, or_, true
from sqlalchemy.dialects.postgresql import JSONB

from services.api_gateway.filters.bounds import STARTED, Bounds, of_range
from services.api_gateway.filters.meaning import METADATA, TAG, Fails, Filter, Is, Range
from services.api_gateway.filters.tree import fold
from services.api_gateway.template_bodies import TAGS
from services.database.partitions import id_at
from services.database.tables import chat_sessions

_session = chat_sessions.c
_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "status": _session.status,
    "persona": _session.persona_id,
    "conversation": _session.conversation_id,
    "user": _session.user_id,
    "failure": _session.failure_kind,
    "template": _session.template_id,
    "templateVersion": _session.template_version,
    "resumedFrom": _session.resumed_from,
    "responseMs": _session.response_ms,
    "attempts": _session.attempts,
    "endedAt": _session.ended_at,
    "lastActivityAt": _session.last_activity_at,
}


def condition(tree: Filter) -> ColumnElement[bool]:
    """Return what holds of exactly the rows of chat_sessions for which the filter does."""
    return fold(
        tree,
        _of_leaf,
        every=lambda parts: and_(true(), *parts),
        either=lambda parts: or_(false(), *parts),
        # A comparison with NULL is neither true nor false: NOT would lose the sessions that lack the field.
        negated=lambda part: part.is_not(true()),
    )


def _of_leaf(leaf: Is | Fails) -> ColumnElement[bool]:
    if isinstance(leaf, Fails):
        return _session.error_message.icontains(leaf.text, autoescape=True)
    if leaf.field == STARTED:
        return or_(false(), *(_started(of_range(one)) for one in leaf.ranges))
    if leaf.field == METADATA:
        entry = _session.metadata[leaf.key]
        return or_(false(), *(entry == cast(literal(value), JSONB) for value in leaf.values))
    if leaf.field == TAG:
        tags = _session.metadata[TAGS]
        return or_(false(), *(tags.contains(cast(literal(json.dumps(value)), JSONB)) for value in leaf.values))
    column = _COLUMNS[leaf.field]
    among = [column.in_(leaf.values)] if leaf.values else []
    return or_(false(), *among, *(_within(column, one) for one in leaf.ranges))


def _within(column: ColumnElement[Any], one: Range) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = []
    if one.low is not None:
        parts.append(column >= one.low if one.with_low else column > one.low)
    if one.high is not None:
        parts.append(column <= one.high if one.with_high else column < one.high)
    return and_(true(), *parts)


def _started(bounds: Bounds) -> ColumnElement[bool]:
    # By the id, which is the time of the start: the key finds its months and rows.
    parts: list[ColumnElement[bool]] = []
    if bounds.since is not None:
        parts.append(_session.session_id >= id_at(bounds.since))
    if bounds.until is not None:
        parts.append(_session.session_id < id_at(bounds.until))
    return and_(true(), *parts)
