"""What transitions of sessions add to the rollups. No I/O."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar

from services.contracts.session import SessionStatus
from services.database.rollups import (
    GLOBAL,
    MERGED_SHARD,
    OF_EVERYONE,
    OF_USERS,
    Granularity,
    bucket_of,
    persona_scope,
    response_bucket,
    user_scope,
)
from services.session_tracker.fold import Transition
from services.session_tracker.lifecycle import Session

K = TypeVar("K")

STATUSES = tuple(SessionStatus)
_POSITIONS = {status: position for position, status in enumerate(STATUSES)}


_Cell = tuple[datetime, str, int]
"""A bucket of one granularity, its scope and shard."""


class RollupKey(NamedTuple):
    """A row of the rollups; rows are written in the order of their keys."""

    granularity: Granularity
    bucket: datetime
    scope: str
    shard: int


@dataclass(slots=True)
class Counts:
    """What to add to a row, or what one holds."""

    sessions: list[int] = field(default_factory=lambda: [0] * len(STATUSES))
    """By status, in the order of STATUSES."""
    response_ms_sum: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.sessions) or bool(self.response_ms_sum or self.failures or self.responses)

    def move(self, session: Session, previous: SessionStatus | None) -> None:
        """Count a session that came to its status, from the one before where that was counted."""
        self.sessions[_POSITIONS[session.status]] += 1
        if previous is not None:
            self.sessions[_POSITIONS[previous]] -= 1
        if session.response_ms is not None:
            self.response_ms_sum += session.response_ms
            bucket = response_bucket(session.response_ms)
            self.responses[bucket] = self.responses.get(bucket, 0) + 1
        if session.failure_kind is not None:
            self.failures[session.failure_kind] = self.failures.get(session.failure_kind, 0) + 1

    def take_away(self, session: Session) -> None:
        """Count an ended session no longer."""
        one = Counts()
        one.move(session, None)
        self.sessions = [mine - theirs for mine, theirs in zip(self.sessions, one.sessions, strict=True)]
        self.response_ms_sum -= one.response_ms_sum
        self.failures = _sum(self.failures, {kind: -count for kind, count in one.failures.items()})
        self.responses = _sum(self.responses, {bucket: -count for bucket, count in one.responses.items()})

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            [mine + theirs for mine, theirs in zip(self.sessions, other.sessions, strict=True)],
            self.response_ms_sum + other.response_ms_sum,
            _sum(self.failures, other.failures),
            _sum(self.responses, other.responses),
        )


def deltas(transitions: Iterable[Transition]) -> dict[RollupKey, Counts]:
    """Return what the transitions add to the rollups; a session that kept its status adds nothing."""
    everyone: defaultdict[_Cell, Counts] = defaultdict(Counts)
    users: defaultdict[_Cell, Counts] = defaultdict(Counts)
    for session, previous, shard in transitions:
        if session.status is previous:
            continue
        minute = bucket_of(session.started_at, Granularity.MINUTE)
        everyone[minute, GLOBAL, shard].move(session, previous)
        everyone[minute, persona_scope(session.persona_id), shard].move(session, previous)
        if session.status.ended:
            day = minute.replace(hour=0, minute=0)
            users[day, user_scope(session.user_id), shard].move(session, None)
    return _rolled_up(everyone, OF_EVERYONE) | _rolled_up(users, OF_USERS)


def renamed(sessions: Iterable[Session], user_id: str) -> dict[RollupKey, Counts]:
    """Return what to add to the rollups so that these sessions are counted for another user; they must be locked."""
    counts: defaultdict[RollupKey, Counts] = defaultdict(Counts)
    for session in sessions:
        if session.status.ended:
            day = bucket_of(session.started_at, Granularity.DAY)
            counts[RollupKey(Granularity.DAY, day, user_scope(session.user_id), MERGED_SHARD)].take_away(session)
            counts[RollupKey(Granularity.DAY, day, user_scope(user_id), MERGED_SHARD)].move(session, None)
    return dict(counts)


def _rolled_up(finest: Mapping[_Cell, Counts], granularities: Iterable[Granularity]) -> dict[RollupKey, Counts]:
    """Return the counts at these granularities, each made of the one before, without those that came to nothing."""
    rows: dict[RollupKey, Counts] = {}
    cells = finest
    for granularity in granularities:
        coarser: dict[_Cell, Counts] = {}
        starts = {bucket: bucket_of(bucket, granularity) for bucket in {bucket for bucket, _, _ in cells}}
        for (bucket, scope, shard), counts in cells.items():
            cell = starts[bucket], scope, shard
            standing = coarser.get(cell)
            coarser[cell] = counts if standing is None else standing + counts
        rows |= {RollupKey(granularity, *cell): counts for cell, counts in coarser.items() if counts}
        cells = coarser
    return rows


def _sum(mine: Mapping[K, int], theirs: Mapping[K, int]) -> dict[K, int]:
    sums = {key: mine.get(key, 0) + theirs.get(key, 0) for key in {**mine, **theirs}}
    return {key: count for key, count in sums.items() if count}
