"""How counts of sessions become the statistics of a range of time. No I/O.

Whole weeks, days, hours and minutes are counted by the rollups, the rest of a range by its sessions themselves. Where
most of an hour, say, is in the range, its rollup counts it, and its other sessions are taken away: any range is exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from services.contracts.admission import EARLIEST
from services.contracts.session import SessionStatus
from services.database.rollups import (
    Granularity,
    bucket_of,
    next_bucket,
    quantile,
    readable_since,
)

MAX_POINTS = 1_000
"""Of a series."""
MAX_GROUPS = 100
"""Of personas in one answer: those with the most sessions."""
LATEST = timedelta(days=1)
"""How far ahead of now a range without end reaches: farther than any session's id may lie."""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` up to, not including, `until`."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """How a range is counted: by which rollups, and what is left of it for the sessions themselves."""

    buckets: Mapping[Granularity, Sequence[datetime]]
    edges: Sequence[Span]
    surplus: Sequence[Span]
    """What the buckets count that is out of the range: its sessions are taken away again."""


@dataclass(slots=True)
class Tally:
    """Counts of sessions that can be added up."""

    by_status: Sequence[int] = (0,) * len(SessionStatus)
    """In the order of SessionStatus."""
    failures: dict[str, int] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)
    """By response bucket."""
    response_ms_sum: int = 0

    def add_rollup(
        self,
        by_status: Iterable[int],
        response_ms_sum: int,
        failures: Iterable[tuple[str, int]],
        responses: Iterable[tuple[int, int]],
    ) -> None:
        """Count what a rollup counts, or what sessions come to as if they were one."""
        self.by_status = [a + b for a, b in zip(self.by_status, by_status, strict=True)]
        self.response_ms_sum += response_ms_sum
        _add(self.failures, failures)
        _add(self.responses, responses)

    def add(self, other: "Tally") -> None:
        """Count what the other counts as well."""
        self.add_rollup(other.by_status, other.response_ms_sum, other.failures.items(), other.responses.items())


def resolved(since: datetime | None, until: datetime | None, now: datetime) -> Span:
    """Return the range with both its ends: all that there is where one is not given."""
    latest = bucket_of(now, Granularity.DAY) + 2 * LATEST
    return Span(max(since or EARLIEST, EARLIEST), min(until or latest, latest))


def plan(span: Span, granularities: Iterable[Granularity], now: datetime) -> Plan:
    """Return how the range is counted by rollups of these granularities: the coarsest that fit, where they are kept.

    Of a bucket that is in the range by more than half, the sessions are counted that are not.
    """
    buckets: dict[Granularity, list[datetime]] = {}
    rest = [span] if span.since < span.until else []
    finest_first = sorted(granularities, key=lambda one: one.length)
    for granularity in reversed(finest_first):
        kept = readable_since(granularity, now)
        rests: list[Span] = []
        for part in rest:
            first = next_bucket(part.since if kept is None else max(part.since, kept), granularity)
            last = bucket_of(part.until, granularity)
            if first >= last:
                rests.append(part)
                continue
            buckets.setdefault(granularity, []).extend(_starts(first, last, granularity.length))
            rests.extend(_around(Span(first, last), part))
        rest = rests
    edges: list[Span] = []
    surplus: list[Span] = []
    for part in rest:
        if (found := _mostly_filled(part, finest_first, now)) is None:
            edges.append(part)
        else:
            granularity, bucket = found
            buckets[granularity] = sorted([*buckets.get(granularity, ()), bucket.since])
            surplus.extend(_around(part, bucket))
    return Plan(buckets, edges, surplus)


def _mostly_filled(part: Span, finest_first: Iterable[Granularity], now: datetime) -> tuple[Granularity, Span] | None:
    """Return the finest kept bucket that holds the part, None where that is no more than half of it."""
    for granularity in finest_first:
        start, kept = bucket_of(part.since, granularity), readable_since(granularity, now)
        bucket = Span(start, start + granularity.length)
        if part.until <= bucket.until and (kept is None or kept <= start):
            return (granularity, bucket) if 2 * (part.until - part.since) > granularity.length else None
    return None


def _around(inner: Span, outer: Span) -> list[Span]:
    """Return what is of the outer range and not of the inner one."""
    return [Span(a, b) for a, b in ((outer.since, inner.since), (inner.until, outer.until)) if a < b]


def summary(tally: Tally) -> dict[str, Any]:
    """Return the statistics of what was counted; times in milliseconds, null where no session COMPLETED."""
    by_status = dict(zip(SessionStatus, tally.by_status, strict=True))
    total, completed = sum(tally.by_status), by_status[SessionStatus.COMPLETED]
    responses = {bucket: count for bucket, count in tally.responses.items() if count > 0}
    answered = sum(responses.values())
    return {
        "total": total,
        "active": by_status[SessionStatus.ACTIVE],
        "byStatus": {status.value: count for status, count in by_status.items()},
        "successRate": completed / total if total else 0.0,
        "responseMs": {
            "average": round(tally.response_ms_sum / answered, 1) if answered else None,
            "p50": _quantile(responses, 0.50),
            "p95": _quantile(responses, 0.95),
            "p99": _quantile(responses, 0.99),
        },
        "failures": {kind: count for kind, count in sorted(tally.failures.items()) if count},
    }


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of the tallies."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


def points(span: Span, interval: Granularity) -> int:
    """Return how many points a series over the range has."""
    return -((bucket_of(span.since, interval) - span.until) // interval.length)


def series(buckets: Mapping[datetime, Tally], span: Span, interval: Granularity) -> list[dict[str, Any]]:
    """Return the statistics of each interval of the range, empty ones too; they begin at whole UTC buckets."""
    start = bucket_of(span.since, interval)
    tallies = [Tally() for _ in range(points(span, interval))]
    for bucket, tally in buckets.items():
        tallies[(bucket - start) // interval.length].add(tally)
    return [{"from": start + number * interval.length, **summary(tally)} for number, tally in enumerate(tallies)]


def persona_groups(personas: Mapping[str, Tally]) -> list[dict[str, Any]]:
    """Return the statistics of each persona, those with the most sessions first, at most MAX_GROUPS."""
    groups = [{"key": persona, **summary(tally)} for persona, tally in personas.items()]
    groups = [group for group in groups if group["total"]]
    return sorted(groups, key=lambda group: (-group["total"], group["key"]))[:MAX_GROUPS]


def count_groups(counts: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Return how many sessions there are of each status or kind of failure, the most first."""
    ordered = sorted((-count, str(key)) for key, count in counts if count)
    return [{"key": key, "total": -count} for count, key in ordered]


def _starts(first: datetime, last: datetime, length: timedelta) -> list[datetime]:
    return [first + number * length for number in range((last - first) // length)]


def _add(counts: dict[K, int], more: Iterable[tuple[K, int]]) -> None:
    # Thousands in one answer: a Counter takes three times as long.
    get = counts.get
    for key, count in more:
        counts[key] = get(key, 0) + count


def _quantile(responses: dict[int, int], q: float) -> float | None:
    milliseconds = quantile(responses, q)
    return None if milliseconds is None else round(milliseconds, 1)
