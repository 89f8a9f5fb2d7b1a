"""How sessions are counted: the keys of the rollup tables and the buckets of their response times. No I/O.

The tracker writes by these rules and the gateway reads by them.
"""

import math
from datetime import datetime

RELATIVE_ERROR = 0.02
"""Of a quantile read from response-time buckets."""

_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)

GLOBAL = "global"


def persona_scope(persona_id: str) -> str:
    """Return the rollup scope of one persona's sessions."""
    return f"persona:{persona_id}"


def user_scope(user_id: str) -> str:
    """Return the rollup scope of one user's sessions."""
    return f"user:{user_id}"


def hour_of(started_at: datetime) -> datetime:
    """Return the rollup bucket of a session: the hour of its id's own time, so transitions stay within one bucket."""
    return started_at.replace(minute=0, second=0, microsecond=0)


def response_bucket(response_ms: int) -> int:
    """Return the logarithmic bucket of a response time in milliseconds; 0 holds up to one millisecond."""
    return 0 if response_ms <= 1 else math.ceil(math.log(response_ms) / math.log(_GAMMA))


def response_ms_of(bucket: int) -> float:
    """Return the response time that stands for a bucket: within 2 % of every one in it."""
    return 1.0 if bucket == 0 else 2 * _GAMMA**bucket / (_GAMMA + 1)


def quantile(counts: dict[int, int], q: float) -> float | None:
    """Return the q-quantile in milliseconds of response times counted by bucket; None where there are none.

    By nearest rank: the lowest time that at least a share of `q` does not exceed.
    """
    total = sum(counts.values())
    if total == 0:
        return None
    rank, seen = max(1, math.ceil(q * total)), 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return response_ms_of(bucket)
    raise AssertionError("the counts add up to their total")
