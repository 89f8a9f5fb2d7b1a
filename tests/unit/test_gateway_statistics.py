"""How a range of time is counted."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.api_gateway.statistics import (
    MAX_GROUPS,
    Span,
    Tally,
    count_groups,
    persona_groups,
    plan,
    points,
    resolved,
    series,
    summary,
)
from services.database.rollups import (
    CLOCK_MARGIN,
    KEPT,
    OF_EVERYONE,
    OF_USERS,
    Granularity,
    bucket_of,
)

NOW = datetime(2026, 1, 3, 12, 34, 56, tzinfo=UTC)
HOUR = timedelta(hours=1)
times = st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 4)).map(lambda time: time.replace(tzinfo=UTC))  # noqa: DTZ001
weeks = st.datetimes(datetime(2025, 12, 1), datetime(2026, 1, 15)).map(lambda time: time.replace(tzinfo=UTC))  # noqa: DTZ001
moments = times | weeks
starts = st.builds(bucket_of, moments, st.sampled_from(Granularity))
ends = moments | starts
kept_granularities = st.sampled_from([OF_EVERYONE, OF_USERS, (Granularity.MINUTE,), ()])
distances = st.sampled_from([timedelta(), timedelta(hours=30), timedelta(days=395), timedelta(days=800)])


@given(ends, ends, moments, kept_granularities, distances)
def test_every_moment_of_a_range_is_counted_once(since, until, at, granularities, later) -> None:
    now = NOW + later
    planned = plan(Span(since, until), granularities, now)
    parts = [Span(start, start + one.length) for one, starts in planned.buckets.items() for start in starts]
    counted = sum(_inside(part, at) for part in [*parts, *planned.edges])
    assert counted - sum(_inside(part, at) for part in planned.surplus) == _inside(Span(since, until), at)
    assert planned.buckets.keys() <= set(granularities)
    for granularity, buckets in planned.buckets.items():
        for start in buckets:
            assert start == bucket_of(start, granularity)
            assert granularity not in KEPT or start >= now - KEPT[granularity] + CLOCK_MARGIN


@given(ends, ends, kept_granularities.filter(bool))
def test_what_is_left_for_sessions_is_shorter_than_a_bucket(since, until, granularities) -> None:
    planned = plan(Span(since, until), granularities, NOW)
    # Of the time of which minutes are kept; before it, the finest is an hour.
    finest = min(granularities, key=lambda one: one.length)
    assert len(planned.edges) <= 4
    for edge in planned.edges:
        if finest is not Granularity.MINUTE or edge.since >= NOW - KEPT[Granularity.MINUTE] + 2 * CLOCK_MARGIN:
            assert edge.until - edge.since < 2 * finest.length
    for surplus in planned.surplus:
        assert surplus.until - surplus.since < Granularity.DAY.length / 2


def test_ninety_days_take_few_rollups() -> None:
    planned = plan(Span(NOW - timedelta(days=90), NOW), OF_EVERYONE, NOW)
    assert {one: len(buckets) for one, buckets in planned.buckets.items()} == {
        Granularity.WEEK: 12,
        Granularity.DAY: 5,
        Granularity.HOUR: 11 + 12,
        Granularity.MINUTE: 34 + 1,
    }
    assert [edge.until - edge.since for edge in planned.edges] == [timedelta(minutes=25, seconds=4)]
    assert planned.surplus == [Span(NOW, NOW + timedelta(seconds=4))]


def test_a_range_without_ends_holds_every_admitted_session() -> None:
    span = resolved(None, None, NOW)
    assert span.since <= datetime(2020, 1, 1, tzinfo=UTC)
    assert span.until >= NOW + timedelta(days=1)
    assert plan(span, OF_USERS, NOW).edges == []


@given(times, times, st.sampled_from(Granularity))
def test_a_series_has_as_many_points_as_it_takes(since: datetime, until: datetime, interval: Granularity) -> None:
    expected, at = 0, bucket_of(since, interval)
    while at < until:
        expected, at = expected + 1, at + interval.length
    assert max(0, points(Span(since, until), interval)) == expected
    assert len(series({}, Span(since, until), interval)) == expected


def test_the_largest_groups_come_first_and_empty_ones_not_at_all() -> None:
    tallies = {f"p{number:03}": _tally(number) for number in range(MAX_GROUPS + 5)}
    groups = persona_groups(tallies)
    assert [group["key"] for group in groups] == [f"p{number:03}" for number in range(MAX_GROUPS + 4, 4, -1)]
    assert groups[0] == {"key": "p104", **summary(tallies["p104"])}
    assert count_groups({"timeout": 2, "tls": 0, "connect": 2, "expired": 5}.items()) == [
        {"key": "expired", "total": 5},
        {"key": "connect", "total": 2},
        {"key": "timeout", "total": 2},
    ]


def test_tallies_add_up() -> None:
    one, other, both = Tally(), Tally(), Tally()
    one.add_rollup([0, 3, 1, 0, 0], 162, [("tls", 1)], [(100, 2), (7, 1)])
    other.add_rollup([1, 1, 2, 0, 0], 54, [("tls", 1), ("timeout", 1)], [(100, 1)])
    one.add(other)
    both.add_rollup([1, 4, 3, 0, 0], 216, [("timeout", 1), ("tls", 2)], [(7, 1), (100, 3)])
    assert one == both
    assert summary(one)["failures"] == {"timeout": 1, "tls": 2}


def _tally(total: int) -> Tally:
    return Tally(by_status=[total, 0, 0, 0, 0])


def _inside(span: Span, at: datetime) -> bool:
    return span.since <= at < span.until
