"""The counts behind the statistics: rollups for whole buckets of time, sessions for the rest of a range."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, and_, cast, func, literal, null, or_, select
from sqlalchemy.dialects.postgresql import ARRAY

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
from services.database.tables import chat_sessions, session_rollups

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
        if planned.buckets:
            _add_rollups(counts, (await connection.execute(_rollups(question, planned))).all())
        counted = _counted_one_by_one(question, planned)
        if counted:
            _add_sessions(counts, (await connection.execute(_sessions(question, counted))).all())
    return counts


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


def _sessions(question: Question, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Return the query of what the sessions of any of the conditions come to, those that count alike together."""
    session = chat_sessions.c
    bounds = literal(list(RESPONSE_BOUNDS), ARRAY(BigInteger))
    apart = [
        session.persona_id.label("persona") if question.by_persona else null().label("persona"),
        null().label("at")
        if question.interval is None
        else func.date_trunc(question.interval.value, session.started_at, "UTC").label("at"),
        session.status.label("status"),
        session.failure_kind.label("kind"),
        func.width_bucket(session.response_ms - 1, bounds).label("response"),
    ]
    statement = select(*apart, func.count(), cast(func.sum(session.response_ms), BigInteger)).where(or_(*conditions))
    if question.user_id is not None:
        statement = statement.where(session.user_id == question.user_id)
    if question.persona_id is not None:
        statement = statement.where(session.persona_id == question.persona_id)
    # Grouped by labels: repeated, their parameters would make them other expressions.
    return statement.group_by("persona", "at", "status", "kind", "response")


def _add_sessions(counts: defaultdict[Place, Tally], rows: Iterable[Any]) -> None:
    for persona, bucket, status, kind, response, count, response_ms in rows:
        counts[persona, bucket].add_sessions(status, kind, response, count, response_ms)
