"""What transitions of sessions add to the rollups. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar

from services.contracts.session import SessionStatus
from services.database.rollups import (
    GLOBAL,
    OF_EVERYONE,
    OF_USERS,
    USER_PREFIX,
    Granularity,
    bucket_of,
    persona_scope,
    response_bucket,
    user_scope,
)
from services.session_tracker.fold import Transition

K = TypeVar("K")

STATUSES = tuple(SessionStatus)
_POSITIONS = {status: position for position, status in enumerate(STATUSES)}


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

    def move(self, transition: Transition) -> None:
        """Count a session that changed its status."""
        session, previous = transition.session, transition.previous
        self.sessions[_POSITIONS[session.status]] += 1
        if previous is not None:
            self.sessions[_POSITIONS[previous]] -= 1
        if session.response_ms is not None:
            self.response_ms_sum += session.response_ms
            bucket = response_bucket(session.response_ms)
            self.responses[bucket] = self.responses.get(bucket, 0) + 1
        if session.failure_kind is not None:
            self.failures[session.failure_kind] = self.failures.get(session.failure_kind, 0) + 1

    def add(self, other: "Counts") -> None:
        """Count what the other counts as well."""
        self.sessions = [mine + theirs for mine, theirs in zip(self.sessions, other.sessions, strict=True)]
        self.response_ms_sum += other.response_ms_sum
        _add(self.failures, other.failures)
        _add(self.responses, other.responses)


def granularities(scope: str) -> tuple[Granularity, ...]:
    """Return what is kept of a scope, the finest first."""
    return OF_USERS if scope.startswith(USER_PREFIX) else OF_EVERYONE


def deltas(transitions: Iterable[Transition]) -> dict[RollupKey, Counts]:
    """Return what the transitions add to the rollups; a session that kept its status adds nothing."""
    finest: dict[RollupKey, Counts] = {}
    for transition in transitions:
        session = transition.session
        if session.status is transition.previous:
            continue
        minute = bucket_of(session.started_at, Granularity.MINUTE)
        hour = bucket_of(minute, Granularity.HOUR)
        for key in (
            RollupKey(Granularity.MINUTE, minute, GLOBAL, transition.shard),
            RollupKey(Granularity.MINUTE, minute, persona_scope(session.persona_id), transition.shard),
            RollupKey(Granularity.HOUR, hour, user_scope(session.user_id), transition.shard),
        ):
            if key not in finest:
                finest[key] = Counts()
            finest[key].move(transition)
    return {key: counts for key, counts in _rolled_up(finest).items() if counts}


def _rolled_up(finest: Mapping[RollupKey, Counts]) -> dict[RollupKey, Counts]:
    """Return the counts at every granularity that their scopes are kept at."""
    rows: dict[RollupKey, Counts] = {}
    for (_, bucket, scope, shard), counts in finest.items():
        for granularity in granularities(scope):
            key = RollupKey(granularity, bucket_of(bucket, granularity), scope, shard)
            if key not in rows:
                rows[key] = Counts()
            rows[key].add(counts)
    return rows


def _add(total: dict[K, int], more: Mapping[K, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count
