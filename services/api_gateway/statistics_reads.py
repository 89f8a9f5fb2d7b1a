"""The counts behind the statistics: rollups for whole buckets of time, sessions for the rest of a range.

A user who has few sessions in a range has nearly as many rollups, on as many pages: his sessions are counted instead,
from an index that holds them side by side.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from services.api_gateway.database import Database
from services.api_gateway.statistics import Plan, Span, Tally, plan
from services.api_gateway.statistics_statements import Form, counts, few_sessions
from services.contracts.session import SessionStatus
from services.database.partitions import id_at
from services.database.rollups import GLOBAL, OF_EVERYONE, OF_USERS, Granularity, persona_scope, user_scope

if TYPE_CHECKING:
    from asyncpg import Record

FEW_SESSIONS = 5_000
"""Of a user, counted faster one by one than by his rollups: about as many fit on 60 pages of the index."""
_LONGEST_MONTH = timedelta(days=31)
_STATUSES = slice(2, 2 + len(SessionStatus))

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

    @property
    def scope(self) -> str:
        """The scope of the rollups that count these sessions once; where they are told apart by persona, unused."""
        if self.user_id is not None:
            return user_scope(self.user_id)
        return GLOBAL if self.persona_id is None else persona_scope(self.persona_id)


async def tallies(database: Database, question: Question, span: Span, now: datetime) -> Mapping[Place, Tally]:
    """Return the exact counts of the sessions that started within the range, as of one moment."""
    planned = plan(span, question.granularities, now)
    if question.user_id is not None and planned.buckets:
        values = {**_values(question, [span]), "few": FEW_SESSIONS + 1, "since": span.since - _LONGEST_MONTH}
        rows = await database.fetch(few_sessions(_form(question, Plan({}, [span], []))), **values)
        if 0 < sum(sum(row[_STATUSES]) for row in rows) <= FEW_SESSIONS:
            return _added(rows)
    if not planned.buckets and not planned.edges:
        return {}
    pairs = [(str(one), bucket) for one, buckets in planned.buckets.items() for bucket in buckets]
    values = _values(question, _counted_one_by_one(question, planned))
    values |= {"granularities": [one for one, _ in pairs], "buckets": [bucket for _, bucket in pairs]}
    return _added(await database.fetch(counts(_form(question, planned)), **values))


def _form(question: Question, planned: Plan) -> Form:
    return Form(
        question.user_id is not None,
        question.persona_id is not None,
        question.by_persona,
        question.interval,
        bool(planned.buckets),
        len(planned.edges),
        len(planned.surplus),
    )


def _values(question: Question, spans: Iterable[Span]) -> dict[str, Any]:
    """Return the values of a question, of which the sessions of these ranges are counted one by one."""
    values: dict[str, Any] = {"user_id": question.user_id, "persona_id": question.persona_id, "scope": question.scope}
    for number, span in enumerate(spans):
        values |= {f"since{number}": id_at(span.since), f"until{number}": id_at(span.until)}
    return values


def _counted_one_by_one(question: Question, planned: Plan) -> list[Span]:
    """Return where rollups count no sessions, or too many, and last where they count no ACTIVE ones, as of users."""
    spans = [*planned.edges, *planned.surplus]
    if question.user_id is not None:
        for granularity, starts in planned.buckets.items():
            spans.append(Span(starts[0], starts[-1] + granularity.length))
    return spans


def _added(rows: "Iterable[Record]") -> Mapping[Place, Tally]:
    added: defaultdict[Place, Tally] = defaultdict(Tally)
    for row in rows:
        response_ms_sum, kinds, failures, buckets, responses = row[_STATUSES.stop :]
        added[row[0], row[1]].add_rollup(
            row[_STATUSES], response_ms_sum, zip(kinds, failures, strict=True), zip(buckets, responses, strict=True)
        )
    return added
