"""The statements that count sessions, each written once for all questions of one form.

What they return looks like rollups: persona, bucket of time, counts by status, sum of response times, then kinds of
failure and response buckets, two arrays each.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Integer,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.contracts.session import SessionStatus
from services.database.driver import Statement, compiled
from services.database.rollups import PERSONA_PREFIX, RESPONSE_BOUNDS, Granularity
from services.database.tables import chat_sessions, dropped_months, session_rollups

_STATUS_COLUMNS = tuple(session_rollups.c[status.lower()] for status in SessionStatus)
# Prepared with the statement: as a parameter it would be sent each time.
_BOUNDS: ColumnElement[Any] = literal_column(f"'{{{','.join(map(str, RESPONSE_BOUNDS))}}}'::bigint[]")


@dataclass(frozen=True, slots=True)
class Form:
    """A question without its values, and how much of its plan there is."""

    of_user: bool
    of_persona: bool
    by_persona: bool
    interval: Granularity | None
    rollups: bool
    edges: int
    surplus: int


@cache  # there are some hundred forms
def few_sessions(form: Form) -> Statement:
    """Return the query of a user's sessions one by one, one too many at most; of none where any may be dropped."""
    dropped = exists().where(dropped_months.c.month > bindparam("since", type_=dropped_months.c.month.type))
    few = _those(form, _within(0), ~dropped).limit(bindparam("few", type_=Integer))
    return compiled(_as_rollups(form, few))


@cache
def counts(form: Form) -> Statement:
    """Return the query of all that a plan counts by, in one statement: so as of one moment."""
    parts: list[Select[Any]] = [_rollups(form)] if form.rollups else []
    some = form.edges + form.surplus
    sessions = [_those(form, _within(number), times=1 if number < form.edges else -1) for number in range(some)]
    if form.of_user and form.rollups:
        sessions.append(_those(form, _within(some), chat_sessions.c.status == SessionStatus.ACTIVE))
    if sessions:
        parts.append(_as_rollups(form, union_all(*sessions)))
    rows = union_all(*parts)
    together = form.rollups and not form.by_persona and form.interval is None
    return compiled(_summed(rows) if together else rows)


def _rollups(form: Form) -> Select[Any]:
    """Return the query of the rollups of the plan: one search of their key for each bucket."""
    rollup = session_rollups.c
    granularities = bindparam("granularities", type_=ARRAY(rollup.granularity.type))
    buckets = bindparam("buckets", type_=ARRAY(rollup.bucket.type))
    wanted = func.unnest(granularities, buckets).table_valued("granularity", "bucket").render_derived()
    # Every session lies in a week, and no other bucket of it begins before.
    first = select(func.min(rollup.bucket)).where(rollup.granularity == Granularity.WEEK).scalar_subquery()
    found = and_(rollup.granularity == wanted.c.granularity, rollup.bucket == wanted.c.bucket)
    if form.by_persona and not form.of_persona:
        after = PERSONA_PREFIX[:-1] + chr(ord(PERSONA_PREFIX[-1]) + 1)
        scopes = and_(rollup.scope >= PERSONA_PREFIX, rollup.scope < after)
    else:
        scopes = rollup.scope == bindparam("scope", type_=rollup.scope.type)
    return (
        select(
            func.substr(rollup.scope, len(PERSONA_PREFIX) + 1) if form.by_persona else cast(null(), Text),
            cast(null(), rollup.bucket.type) if form.interval is None else rollup.bucket,
            *_STATUS_COLUMNS,
            rollup.response_ms_sum,
            rollup.failure_kinds,
            rollup.failure_counts,
            rollup.response_buckets,
            rollup.response_counts,
        )
        .select_from(wanted.join(session_rollups, found))
        .where(scopes, wanted.c.bucket >= first)
    )


def _within(number: int) -> ColumnElement[bool]:
    session_id = chat_sessions.c.session_id
    since, until = (bindparam(f"{end}{number}", type_=session_id.type) for end in ("since", "until"))
    return and_(session_id >= since, session_id < until)


def _those(form: Form, *which: ColumnElement[bool], times: int = 1) -> Select[Any]:
    """Return the query of what is counted of such sessions, each so many times."""
    session = chat_sessions.c
    theirs = list(which)
    if form.of_user:
        theirs.append(session.user_id == bindparam("user_id", type_=session.user_id.type))
    if form.of_persona:
        theirs.append(session.persona_id == bindparam("persona_id", type_=session.persona_id.type))
    return select(
        session.persona_id,
        session.started_at,
        session.status,
        session.failure_kind,
        session.response_ms,
        literal_column(str(times), Integer).label("times"),
    ).where(*theirs)


def _as_rollups(form: Form, those: Select[Any] | CompoundSelect[Any]) -> Select[Any]:
    """Return the query of what sessions come to, as if there were rollups of them."""
    found = those.subquery().c
    alike = (
        select(
            (found.persona_id if form.by_persona else cast(null(), Text)).label("persona"),
            (
                cast(null(), found.started_at.type)
                if form.interval is None
                else func.date_trunc(form.interval.value, found.started_at, "UTC")
            ).label("at"),
            found.status.label("status"),
            found.failure_kind.label("kind"),
            func.width_bucket(found.response_ms - 1, _BOUNDS, type_=Integer).label("response"),
            func.sum(found.times).label("sessions"),
            func.sum(found.times * found.response_ms).label("response_ms"),
        )
        # Grouped by labels: repeated, their parameters would make them other expressions.
        .group_by("persona", "at", "status", "kind", "response")
        .subquery()
        .c
    )
    return select(
        alike.persona,
        alike.at,
        *(_whole(func.sum(alike.sessions).filter(alike.status == status)) for status in SessionStatus),
        _whole(func.sum(alike.response_ms)),
        *(_listed(column, alike.kind) for column in (alike.kind, alike.sessions)),
        *(_listed(column, alike.response) for column in (alike.response, alike.sessions)),
    ).group_by(alike.persona, alike.at)


def _summed(rollups: CompoundSelect[Any]) -> Select[Any]:
    """Return the query of what such rows come to: one row, where many with thousands of counts would be told."""
    rows = rollups.cte("counted")
    place, counters = (
        list(rows.c)[:2],
        [rows.c[column.key] for column in (*_STATUS_COLUMNS, session_rollups.c.response_ms_sum)],
    )
    totals = select(*(_whole(func.sum(column)).label(column.key) for column in counters)).subquery()
    failures = _pairs_summed(rows.c.failure_kinds, rows.c.failure_counts)
    responses = _pairs_summed(rows.c.response_buckets, rows.c.response_counts)
    nowhere = (cast(null(), column.type) for column in place)
    return select(*nowhere, *totals.c, *failures.c, *responses.c).select_from(
        totals.join(failures, true()).join(responses, true())
    )


def _pairs_summed(keys: ColumnElement[Any], counts: ColumnElement[Any]) -> Subquery:
    """Return the query of the sum for each key, of pairs of arrays of keys and counts."""
    # Side by side, not in FROM: so PostgreSQL keeps no copy of them.
    pairs = select(func.unnest(keys).label("key"), func.unnest(counts).label("count")).subquery().c
    sums = select(pairs.key, _whole(func.sum(pairs["count"])).label("total")).group_by(pairs.key).subquery().c
    return select(_listed(sums.key, sums.key), _listed(sums.total, sums.key)).subquery()


def _whole(total: ColumnElement[Any]) -> ColumnElement[int]:
    """Return a sum as a whole number, where PostgreSQL makes numerics of them; 0 of nothing."""
    return cast(func.coalesce(total, 0), BigInteger)


def _listed(column: ColumnElement[Any], where_there_is: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.array_agg(column).filter(where_there_is.is_not(null())), literal_column("'{}'"))
