"""How counts of sessions become the statistics of a range of time. No I/O.

Whole hours are counted by the rollups, the rest of a range by its sessions themselves, so any range is exact.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from services.contracts.session import SessionStatus
from services.database.rollups import hour_of, quantile, response_bucket

HOUR = timedelta(hours=1)
MAX_POINTS = 1_000
"""Of a series."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` up to, not including, `until`; None is without end."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a range is counted: its whole hours, if it has any, and what is left of it at its ends."""

    whole_hours: Span | None
    edges: tuple[Span, ...]


@dataclass(slots=True)
class Tally:
    """Counts of sessions that can be added up."""

    by_status: Counter[SessionStatus] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    responses: Counter[int] = field(default_factory=Counter)
    response_ms_sum: int = 0

    def add_session_group(
        self, status: SessionStatus, failure_kind: str | None, response_ms: int | None, count: int
    ) -> None:
        """Count sessions that are alike."""
        self.by_status[status] += count
        if failure_kind is not None:
            self.failures[failure_kind] += count
        if response_ms is not None:
            self.responses[response_bucket(response_ms)] += count
            self.response_ms_sum += response_ms * count

    def add(self, other: "Tally") -> None:
        """Count what the other counts as well."""
        self.by_status.update(other.by_status)
        self.failures.update(other.failures)
        self.responses.update(other.responses)
        self.response_ms_sum += other.response_ms_sum


def plan(span: Span) -> Plan:
    """Return how the range is counted."""
    first = None if span.since is None else _next_hour(span.since)
    last = None if span.until is None else hour_of(span.until)
    if span.since is not None and span.until is not None and span.since >= span.until:
        return Plan(None, ())
    if first is not None and last is not None and first >= last:
        # At most two parts of hours: not worth the rollups.
        return Plan(None, (span,))
    edges = []
    if span.since is not None and span.since != first:
        edges.append(Span(span.since, first))
    if span.until is not None and span.until != last:
        edges.append(Span(last, span.until))
    return Plan(Span(first, last), tuple(edges))


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


def total(hours: Iterable[Tally]) -> Tally:
    """Return the sum of the tallies."""
    whole = Tally()
    for tally in hours:
        whole.add(tally)
    return whole


def points(since: datetime, until: datetime, interval: timedelta) -> int:
    """Return how many points a series over the range has."""
    return -((_start_of(since, interval) - until) // interval)


def series(hours: dict[datetime, Tally], since: datetime, until: datetime, interval: timedelta) -> list[dict[str, Any]]:
    """Return the statistics of each interval of the range, empty ones too; they begin at whole UTC hours or days."""
    start = _start_of(since, interval)
    tallies = [Tally() for _ in range(points(since, until, interval))]
    for hour, tally in hours.items():
        tallies[(hour - start) // interval].add(tally)
    return [{"from": start + number * interval, **summary(tally)} for number, tally in enumerate(tallies)]


def _next_hour(moment: datetime) -> datetime:
    hour = hour_of(moment)
    return hour if hour == moment else hour + HOUR


def _start_of(moment: datetime, interval: timedelta) -> datetime:
    hour = hour_of(moment)
    return hour if interval == HOUR else hour.replace(hour=0)


def _quantile(responses: dict[int, int], q: float) -> float | None:
    milliseconds = quantile(responses, q)
    return None if milliseconds is None else round(milliseconds, 1)
