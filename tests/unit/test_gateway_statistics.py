"""How a range of time is counted."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.api_gateway.statistics import HOUR, Span, plan, points
from services.database.rollups import hour_of

times = st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 3)).map(lambda time: time.replace(tzinfo=UTC))  # noqa: DTZ001
whole_hours = times.map(hour_of)
ends = st.one_of(st.none(), times, whole_hours)


@given(ends, ends, times)
def test_every_moment_of_a_range_is_counted_once(since: datetime | None, until: datetime | None, at: datetime) -> None:
    planned = plan(Span(since, until))
    parts = [*planned.edges, *([planned.whole_hours] if planned.whole_hours else [])]
    counted = sum(_inside(part, at) for part in parts)
    assert counted == _inside(Span(since, until), at)
    if planned.whole_hours:
        for end in (planned.whole_hours.since, planned.whole_hours.until):
            assert end is None or end == hour_of(end)
    for edge in planned.edges:
        assert edge.since is not None
        assert edge.until is not None
        assert edge.until - edge.since < 2 * HOUR


@given(times, times, st.sampled_from([HOUR, timedelta(days=1)]))
def test_a_series_has_as_many_points_as_it_takes(since: datetime, until: datetime, interval: timedelta) -> None:
    start = since.replace(minute=0, second=0, microsecond=0, hour=since.hour if interval == HOUR else 0)
    expected, at = 0, start
    while at < until:
        expected, at = expected + 1, at + interval
    assert max(0, points(since, until, interval)) == expected


def _inside(span: Span, at: datetime) -> bool:
    return (span.since is None or at >= span.since) and (span.until is None or at < span.until)
