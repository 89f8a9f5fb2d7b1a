"""How sessions are counted: scopes, buckets of time and of response times, and how long each is kept. No I/O.

The tracker writes by these rules and the gateway reads by them.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

RELATIVE_ERROR = 0.02
"""Of a quantile read from response-time buckets."""

_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)

RESPONSE_BOUNDS = tuple(math.floor(_GAMMA**bucket) for bucket in range(920))
"""The longest whole milliseconds of each response bucket, up to 2^53; one more bucket holds what is longer."""

GLOBAL = "global"
PERSONA_PREFIX = "persona:"
USER_PREFIX = "user:"

MERGED_SHARD = -2
"""The shard of what the maintenance job writes: merged shards of the past, and repairs. The fold never writes it."""


class Granularity(StrEnum):
    """How long a bucket of time is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    """Of ISO: from Monday on."""

    __hash__ = str.__hash__  # they are in the key of every row that is counted; the enum's own is ten times slower

    @property
    def length(self) -> timedelta:
        """The time from a bucket's start to the next one's."""
        return _LENGTHS[self]


_LENGTHS = {
    Granularity.MINUTE: timedelta(minutes=1),
    Granularity.HOUR: timedelta(hours=1),
    Granularity.DAY: timedelta(days=1),
    Granularity.WEEK: timedelta(weeks=1),
}
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
"""The start of a bucket of each granularity."""

KEPT: Mapping[Granularity, timedelta] = {
    Granularity.MINUTE: timedelta(hours=48),
    Granularity.HOUR: timedelta(days=396),  # 13 months
}
"""After how long rollups may be removed; days and weeks are kept for ever."""
CLOCK_MARGIN = timedelta(hours=1)
"""Readers leave rollups alone so long before they may be removed: clocks differ."""

OF_EVERYONE = (Granularity.MINUTE, Granularity.HOUR, Granularity.DAY, Granularity.WEEK)
"""What is kept of the global scope and of personas: each is whole buckets of the one before."""
OF_USERS = (Granularity.DAY,)
"""What is kept of each user, of ended sessions alone: nearly every session of a batch has another user, so all that is
kept of users is a row for each session. Their ACTIVE sessions, which are few, and parts of days are counted from the
sessions themselves.
"""


def persona_scope(persona_id: str) -> str:
    """Return the rollup scope of one persona's sessions."""
    return PERSONA_PREFIX + persona_id


def user_scope(user_id: str) -> str:
    """Return the rollup scope of one user's sessions."""
    return USER_PREFIX + user_id


def bucket_of(moment: datetime, granularity: Granularity) -> datetime:
    """Return the start of the UTC minute, hour, day or week that holds `moment`.

    A session is counted at its id's own time, so its transitions stay within one bucket of each granularity.
    """
    moment = moment.astimezone(UTC)
    return moment - (moment - _MONDAY) % granularity.length


def next_bucket(moment: datetime, granularity: Granularity) -> datetime:
    """Return the first start of a bucket that is not before `moment`."""
    start = bucket_of(moment, granularity)
    return start if start == moment else start + granularity.length


def readable_since(granularity: Granularity, now: datetime) -> datetime | None:
    """Return from when on the rollups of a granularity are whole; None for those that are never removed."""
    kept = KEPT.get(granularity)
    return None if kept is None else next_bucket(now - kept + CLOCK_MARGIN, granularity)


def response_bucket(response_ms: int) -> int:
    """Return the logarithmic bucket of a response time in milliseconds; 0 holds up to one millisecond."""
    return bisect_left(RESPONSE_BOUNDS, response_ms)


def response_ms_of(bucket: int) -> float:
    """Return the response time that stands for a bucket: within 2 % of every one in it."""
    return 1.0 if bucket == 0 else 2 * _GAMMA**bucket / (_GAMMA + 1)


def quantile(counts: Mapping[int, int], q: float) -> float | None:
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
