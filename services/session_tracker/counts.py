"""What transitions of sessions add to the rollups. No I/O."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from services.contracts.session import SessionStatus
from services.database.rollups import GLOBAL, hour_of, persona_scope, response_bucket, user_scope
from services.session_tracker.fold import Transition

STATUSES = tuple(SessionStatus)


class RollupKey(NamedTuple):
    """A row of the rollup tables."""

    scope: str
    bucket: datetime
    shard: int


@dataclass(slots=True)
class Deltas:
    """What to add, by row: sessions by status and the sum of response times; failures; response times by bucket."""

    sessions: dict[RollupKey, list[int]] = field(default_factory=dict)
    failures: dict[tuple[RollupKey, str], int] = field(default_factory=lambda: defaultdict(int))
    responses: dict[tuple[RollupKey, int], int] = field(default_factory=lambda: defaultdict(int))


def deltas(transitions: Iterable[Transition]) -> Deltas:
    """Return what the transitions add to the rollups; a session that kept its status adds nothing."""
    total = Deltas()
    for transition in transitions:
        session = transition.session
        if session.status is transition.previous:
            continue
        bucket = hour_of(session.started_at)
        for scope in (GLOBAL, persona_scope(session.persona_id), user_scope(session.user_id)):
            _count(total, RollupKey(scope, bucket, transition.shard), transition)
    return total


def _count(total: Deltas, key: RollupKey, transition: Transition) -> None:
    session = transition.session
    row = total.sessions.setdefault(key, [0] * (len(STATUSES) + 1))
    row[STATUSES.index(session.status)] += 1
    if transition.previous is not None:
        row[STATUSES.index(transition.previous)] -= 1
    if session.response_ms is not None:
        row[-1] += session.response_ms
        total.responses[key, response_bucket(session.response_ms)] += 1
    if session.failure_kind is not None:
        total.failures[key, session.failure_kind] += 1
