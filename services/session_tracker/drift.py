"""Compares rollups with what they count, in one statement: so in one snapshot, in which a fold is there whole or not.

Both sides are taken apart into cells, one count each: minutes, hours and users' days are held against the sessions, all
other days against their hours, weeks against their days. A difference stays the same while folds go on, for they move
both sides alike; so adding it later repairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    exists,
    func,
    literal,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, array

from services.contracts.session import SessionStatus
from services.database import tables as t
from services.database.partitions import id_at
from services.database.rollups import (
    GLOBAL,
    MERGED_SHARD,
    OF_USERS,
    PERSONA_PREFIX,
    RESPONSE_BOUNDS,
    USER_PREFIX,
    Granularity,
    bucket_of,
)
from services.session_tracker.counts import STATUSES, Counts, RollupKey

PARTS: Mapping[Granularity, Granularity] = {Granularity.DAY: Granularity.HOUR, Granularity.WEEK: Granularity.DAY}
"""What the buckets of a granularity are held against, where it is not the sessions."""

_RESPONSE_MS_SUM, _FAILURE, _RESPONSE = "responseMs", "failure ", "response "


def parameters(granularity: Granularity, since: datetime, until: datetime, most: int) -> dict[str, Any]:
    """Return what a query of DRIFT takes: a range of whole hours, days or weeks, and the most cells."""
    return {
        "since": since,
        "until": until,
        "parts": compared_with(granularity, since, until),
        "first_id": id_at(since),
        "end_id": id_at(until),
        "month": bucket_of(since, Granularity.DAY).replace(day=1),
        "most": most,
    }


def compared_with(granularity: Granularity, since: datetime, until: datetime) -> Sequence[datetime]:
    """Return the buckets that a range is held against; none where it is held against sessions."""
    part = PARTS.get(granularity)
    return [] if part is None else [since + n * part.length for n in range((until - since) // part.length)]


def repairs(granularity: Granularity, cells: Iterable[Any]) -> dict[RollupKey, Counts]:
    """Return what to add to the rollups so that they are right."""
    missing: dict[RollupKey, Counts] = {}
    for bucket, scope, cell, count in cells:
        counts = missing.setdefault(RollupKey(granularity, bucket, scope, MERGED_SHARD), Counts())
        if cell == _RESPONSE_MS_SUM:
            counts.response_ms_sum += count
        elif cell.startswith(_FAILURE):
            counts.failures[cell.removeprefix(_FAILURE)] = count
        elif cell.startswith(_RESPONSE):
            counts.responses[int(cell.removeprefix(_RESPONSE))] = count
        else:
            counts.sessions[STATUSES.index(SessionStatus(cell))] += count
    return missing


def _session_cells(*names: ColumnElement[str]) -> Select[Any]:
    session = t.chat_sessions.c
    scopes = func.unnest(array(list(names))).table_valued("scope").render_derived().lateral()
    response = func.width_bucket(session.response_ms - 1, literal(list(RESPONSE_BOUNDS), ARRAY(BigInteger)))
    cells = _cells(
        [
            (cast(session.status, Text), literal(1)),
            (literal(_RESPONSE_MS_SUM), session.response_ms),
            (_FAILURE + session.failure_kind, literal(1)),
            (_RESPONSE + cast(response, Text), literal(1)),
        ]
    )
    return (
        select(session.started_at.label("bucket"), scopes.c.scope, cells.c.cell, cells.c.count)
        .select_from(t.chat_sessions.join(scopes, true()).join(cells, true()))
        .where(session.session_id >= bindparam("first_id"), session.session_id < bindparam("end_id"))
        .where(cells.c.cell.is_not(None), cells.c.count.is_not(None))
    )


def _rollup_cells(granularity: Granularity, *which: ColumnElement[bool]) -> Select[Any]:
    rollup = t.session_rollups.c
    counters = _cells(
        [
            *((literal(status.value), rollup[status.lower()]) for status in STATUSES),
            (literal(_RESPONSE_MS_SUM), rollup.response_ms_sum),
        ]
    )
    failures = _pairs(rollup.failure_kinds, rollup.failure_counts)
    responses = _pairs(rollup.response_buckets, rollup.response_counts)
    cells_of = [
        select(rollup.bucket, rollup.scope, name.label("cell"), cells.c.count)
        .select_from(t.session_rollups.join(cells, true()))
        .where(rollup.granularity == granularity, *which)
        for cells, name in (
            (counters, counters.c.cell),
            (failures, _FAILURE + failures.c.cell),
            (responses, _RESPONSE + cast(responses.c.cell, Text)),
        )
    ]
    every = union_all(*cells_of).subquery()
    return select(every)


def _cells(pairs: Iterable[tuple[ColumnElement[Any], ColumnElement[Any]]]) -> Any:
    """Return a row for each pair of a cell's name and its count, beside the row that they are of."""
    names, counts = zip(*pairs, strict=True)
    return _pairs(array(names), array([cast(count, BigInteger) for count in counts]))


def _pairs(names: ColumnElement[Any], counts: ColumnElement[Any]) -> Any:
    return func.unnest(names, counts).table_valued("cell", "count").render_derived().lateral()


def _true_cells(granularity: Granularity) -> Any:
    session, rollup = t.chat_sessions.c, t.session_rollups.c
    if granularity not in PARTS:
        return _session_cells(literal(GLOBAL), PERSONA_PREFIX + session.persona_id)
    # Bucket by bucket: between them in the key lie those of users.
    buckets = func.any(bindparam("parts", type_=ARRAY(rollup.bucket.type)))
    of_parts = _rollup_cells(PARTS[granularity], rollup.bucket == buckets, rollup.scope < USER_PREFIX)
    if granularity not in OF_USERS:
        return of_parts
    ended = _session_cells(USER_PREFIX + session.user_id).where(session.status != SessionStatus.ACTIVE)
    return union_all(of_parts, ended)


def _drift(granularity: Granularity) -> Select[Any]:
    rollup = t.session_rollups.c
    within = rollup.bucket >= bindparam("since"), rollup.bucket < bindparam("until")
    truth = _true_cells(granularity).subquery()
    told = _rollup_cells(granularity, *within).subquery()
    bucket = func.date_trunc(granularity.value, truth.c.bucket, "UTC").label("bucket")
    cells = union_all(
        select(bucket, truth.c.scope, truth.c.cell, truth.c.count),
        select(told.c.bucket, told.c.scope, told.c.cell, -told.c.count),
    ).subquery()
    key = (cells.c.bucket, cells.c.scope, cells.c.cell)
    wrong = cast(func.sum(cells.c.count), BigInteger)
    every = select(*key, wrong).group_by(*key).having(wrong != 0)
    if granularity is not Granularity.WEEK:
        every = every.where(~exists().where(t.dropped_months.c.month >= bindparam("month")))
    return every.order_by(*key).limit(bindparam("most"))


DRIFT = {granularity: _drift(granularity) for granularity in Granularity}
"""The queries of the cells by which the rollups of a granularity are wrong, and by how much.

Of a month that retention dropped they find none, but for weeks: what all others would be compared with is gone.
"""
