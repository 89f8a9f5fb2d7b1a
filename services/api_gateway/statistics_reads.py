"""The counts behind the statistics: rollups for whole buckets of time, sessions for the rest of a range.

A user who has few sessions in a range has nearly as many rollups, on as many pages: his sessions are counted instead,
from an index that holds them side by side.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, and_, cast, exists, func, literal, null, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.database import Database
from services.api_gateway.statistics import Plan, Span, Tally, plan
from services.contracts.session import SessionStatus
from services.database.partitions import id_at
from services.database.rollups import (
    GLOBAL,
    OF_EVERYONE,
    OF_USERS,
    PERSONA_PREFIX,
    RESPONSE_BOUNDS,
    Granularity,
    persona_scope,
    user_scope,
)
from services.database.tables import chat_sessions, dropped_months, session_rollups

FEW_SESSIONS = 5_000
"""Of a user, counted faster one by one than by his rollups: about as many fit on 60 pages of the index."""
_LONGEST_MONTH = timedelta(days=31)
_STATUS_COLUMNS = tuple(session_rollups.c[status.lower()] for status in SessionStatus)

Place = tuple[str | None, datetime | None]
"""The persona and the bucket of time that a tally is for; None where all are counted together."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whose sessions are counted: everyone's, one user's, one persona's, or one user's with one persona.

    And how they are told apart: by persona, by the intervals of a series, or not at all.
    """

    user_id: str | None
    persona_id: str | None
    by_persona: bool = False
    interval: Granularity | None = None

    @property
    def granularities(self) -> Sequence[Granularity]:
        """The rollups that can answer; none where users and personas cross."""
        if self.user_id is None:
            kept: Sequence[Granularity] = OF_EVERYONE
        else:
            kept = () if self.persona_id is not None or self.by_persona else OF_USERS
        return kept if self.interval is None else [one for one in kept if one.length <= self.interval.length]

    def scopes(self, scope: ColumnElement[str]) -> ColumnElement[bool]:
        """Return the condition for the rollups that count these sessions once."""
        if self.user_id is not None:
            return scope == user_scope(self.user_id)
        if self.persona_id is not None:
            return scope == persona_scope(self.persona_id)
        if self.by_persona:
            return and_(scope >= PERSONA_PREFIX, scope < PERSONA_PREFIX[:-1] + chr(ord(PERSONA_PREFIX[-1]) + 1))
        return scope == GLOBAL


async def tallies(database: Database, question: Question, span: Span, now: datetime) -> Mapping[Place, Tally]:
    """Return the exact counts of the sessions that started within the range, as of one moment."""
    planned = plan(span, question.granularities, now)
    counts: defaultdict[Place, Tally] = defaultdict(Tally)
    async with database.snapshot() as connection:
        if question.user_id is not None and await _added_few(counts, connection, question, span):
            return counts
        if planned.buckets:
            _add_rollups(counts, (await connection.execute(_rollups(question, planned))).all())
        counted = _counted_one_by_one(question, planned)
        if counted:
            _add_sessions(counts, (await connection.execute(_sessions(question, or_(*counted)))).all())
    return counts


async def _added_few(
    counts: defaultdict[Place, Tally], connection: AsyncConnection, question: Question, span: Span
) -> bool:
    """Count a user's sessions one by one if there are any, they are few, and retention dropped none of the range."""
    dropped = exists().where(dropped_months.c.month > span.since - _LONGEST_MONTH)
    rows = (await connection.execute(_sessions(question, and_(_within(span), ~dropped), most=FEW_SESSIONS + 1))).all()
    if not 0 < sum(count for *_, count, _ in rows) <= FEW_SESSIONS:
        return False
    _add_sessions(counts, rows)
    return True


def _rollups(question: Question, planned: Plan) -> Select[Any]:
    """Return the query of the rollups of the plan: one search of their key for each bucket."""
    rollup = session_rollups.c
    pairs = [(one, bucket) for one, buckets in planned.buckets.items() for bucket in buckets]
    granularities = literal([str(one) for one, _ in pairs], ARRAY(rollup.granularity.type))
    buckets = literal([bucket for _, bucket in pairs], ARRAY(rollup.bucket.type))
    wanted = func.unnest(granularities, buckets).table_valued("granularity", "bucket").render_derived()
    first = select(func.min(rollup.bucket)).where(rollup.granularity == Granularity.DAY).scalar_subquery()
    found = and_(rollup.granularity == wanted.c.granularity, rollup.bucket == wanted.c.bucket)
    return (
        select(
            func.substr(rollup.scope, len(PERSONA_PREFIX) + 1) if question.by_persona else null(),
            null() if question.interval is None else rollup.bucket,
            *_STATUS_COLUMNS,
            rollup.response_ms_sum,
            rollup.failure_kinds,
            rollup.failure_counts,
            rollup.response_buckets,
            rollup.response_counts,
        )
        .select_from(wanted.join(session_rollups, found))
        .where(question.scopes(rollup.scope), wanted.c.bucket >= first)
    )


def _add_rollups(counts: defaultdict[Place, Tally], rows: Iterable[Any]) -> None:
    for persona, bucket, *by_status, response_ms_sum, kinds, failures, buckets, responses in rows:
        counts[persona, bucket].add_rollup(
            by_status, response_ms_sum, zip(kinds, failures, strict=True), zip(buckets, responses, strict=True)
        )


def _counted_one_by_one(question: Question, planned: Plan) -> Sequence[ColumnElement[bool]]:
    """Return which sessions no rollup counts: those of the edges, and a user's ACTIVE ones."""
    conditions = [_within(edge) for edge in planned.edges]
    if question.user_id is not None:
        for granularity, starts in planned.buckets.items():
            days = Span(starts[0], starts[-1] + granularity.length)
            conditions.append(and_(_within(days), chat_sessions.c.status == SessionStatus.ACTIVE))
    return conditions


def _within(span: Span) -> ColumnElement[bool]:
    return and_(chat_sessions.c.session_id >= id_at(span.since), chat_sessions.c.session_id < id_at(span.until))


def _sessions(question: Question, which: ColumnElement[bool], most: int | None = None) -> Select[Any]:
    """Return the query of what such sessions, or `most` of them, come to, those that count alike together."""
    session = chat_sessions.c
    theirs = [which]
    if question.user_id is not None:
        theirs.append(session.user_id == question.user_id)
    if question.persona_id is not None:
        theirs.append(session.persona_id == question.persona_id)
    counted = (session.persona_id, session.started_at, session.status, session.failure_kind, session.response_ms)
    found = select(*counted).where(*theirs).limit(most).subquery().c
    bounds = literal(list(RESPONSE_BOUNDS), ARRAY(BigInteger))
    apart = [
        found.persona_id.label("persona") if question.by_persona else null().label("persona"),
        null().label("at")
        if question.interval is None
        else func.date_trunc(question.interval.value, found.started_at, "UTC").label("at"),
        found.status.label("status"),
        found.failure_kind.label("kind"),
        func.width_bucket(found.response_ms - 1, bounds).label("response"),
    ]
    statement = select(*apart, func.count(), cast(func.sum(found.response_ms), BigInteger))
    # Grouped by labels: repeated, their parameters would make them other expressions.
    return statement.group_by("persona", "at", "status", "kind", "response")


def _add_sessions(counts: defaultdict[Place, Tally], rows: Iterable[Any]) -> None:
    for persona, bucket, status, kind, response, count, response_ms in rows:
        counts[persona, bucket].add_sessions(status, kind, response, count, response_ms)
