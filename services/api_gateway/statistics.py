"""How counts of sessions become the statistics of a range of time. No I/O.

Whole days, hours and minutes are counted by the rollups, the rest of a range by its sessions themselves, so any range
is exact.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

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


@dataclass(slots=True)
class Tally:
    """Counts of sessions that can be added up."""

    by_status: Counter[SessionStatus] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    responses: Counter[int] = field(default_factory=Counter)
    response_ms_sum: int = 0

    def add_sessions(
        self, status: SessionStatus, failure_kind: str | None, response: int | None, count: int, response_ms: int | None
    ) -> None:
        """Count sessions that are alike: `response` is their response bucket, `response_ms` the sum of their times."""
        self.by_status[status] += count
        if failure_kind is not None:
            self.failures[failure_kind] += count
        if response is not None and response_ms is not None:
            self.responses[response] += count
            self.response_ms_sum += response_ms

    def add_rollup(
        self,
        by_status: Iterable[int],
        response_ms_sum: int,
        failures: Iterable[tuple[str, int]],
        responses: Iterable[tuple[int, int]],
    ) -> None:
        """Count what a rollup counts; `by_status` in the order of SessionStatus."""
        for status, count in zip(SessionStatus, by_status, strict=True):
            self.by_status[status] += count
        self.response_ms_sum += response_ms_sum
        for kind, count in failures:
            self.failures[kind] += count
        for bucket, count in responses:
            self.responses[bucket] += count

    def add(self, other: "Tally") -> None:
        """Count what the other counts as well."""
        self.by_status.update(other.by_status)
        self.failures.update(other.failures)
        self.responses.update(other.responses)
        self.response_ms_sum += other.response_ms_sum


def resolved(since: datetime | None, until: datetime | None, now: datetime) -> Span:
    """Return the range with both its ends: all that there is where one is not given."""
    latest = bucket_of(now, Granularity.DAY) + 2 * LATEST
    return Span(max(since or EARLIEST, EARLIEST), min(until or latest, latest))


def plan(span: Span, granularities: Iterable[Granularity], now: datetime) -> Plan:
    """Return how the range is counted by rollups of these granularities: the coarsest that fit, where they are kept."""
    buckets: dict[Granularity, list[datetime]] = {}
    rest = [span] if span.since < span.until else []
    for granularity in sorted(granularities, key=lambda one: one.length, reverse=True):
        kept = readable_since(granularity, now)
        rests: list[Span] = []
        for part in rest:
            first = next_bucket(part.since if kept is None else max(part.since, kept), granularity)
            last = bucket_of(part.until, granularity)
            if first >= last:
                rests.append(part)
                continue
            buckets.setdefault(granularity, []).extend(_starts(first, last, granularity.length))
            rests.extend(Span(a, b) for a, b in ((part.since, first), (last, part.until)) if a < b)
        rest = rests
    return Plan(buckets, rest)


def summary(tally: Tally) -> dict[str, Any]:
    """Return the statistics of what was counted; times in milliseconds, null where no session COMPLETED."""
    total = tally.by_status.total()
    completed = tally.by_status[SessionStatus.COMPLETED]
    responses = {bucket: count for bucket, count in tally.responses.items() if count > 0}
    answered = sum(responses.values())
    return {
        "total": total,
        "active": tally.by_status[SessionStatus.ACTIVE],
        "byStatus": {status.value: tally.by_status[status] for status in SessionStatus},
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


def count_groups(counts: Counter[SessionStatus] | Counter[str]) -> list[dict[str, Any]]:
    """Return how many sessions there are of each status or kind of failure, the most first."""
    ordered = sorted((-count, str(key)) for key, count in counts.items() if count)
    return [{"key": key, "total": -count} for count, key in ordered]


def _starts(first: datetime, last: datetime, length: timedelta) -> list[datetime]:
    return [first + number * length for number in range((last - first) // length)]


def _quantile(responses: dict[int, int], q: float) -> float | None:
    milliseconds = quantile(responses, q)
    return None if milliseconds is None else round(milliseconds, 1)
