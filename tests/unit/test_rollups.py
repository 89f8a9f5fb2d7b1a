"""How sessions are counted."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.database.rollups import (
    RELATIVE_ERROR,
    RESPONSE_BOUNDS,
    Granularity,
    bucket_of,
    next_bucket,
    quantile,
    response_bucket,
    response_ms_of,
)

ROUNDING = 1e-9
response_times = st.integers(1, 2**53) | st.integers(1, 100_000)


def counted(times: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for time in times:
        counts[response_bucket(time)] = counts.get(response_bucket(time), 0) + 1
    return counts


@given(response_times)
@example(1)
@example(2)
@example(2**53)
def test_a_bucket_stands_for_its_times_within_two_percent(time: int) -> None:
    assert abs(response_ms_of(response_bucket(time)) - time) <= (RELATIVE_ERROR + ROUNDING) * time


@given(st.lists(response_times, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_two_percent_of_the_exact_one(times: list[int], q: float) -> None:
    exact = sorted(times)[max(1, math.ceil(q * len(times))) - 1]
    read = quantile(counted(times), q)
    assert read is not None
    assert abs(read - exact) <= (RELATIVE_ERROR + ROUNDING) * exact


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=50))
def test_longer_times_are_never_in_lower_buckets(times: list[int]) -> None:
    buckets = [response_bucket(time) for time in sorted(times)]
    assert buckets == sorted(buckets)


def test_buckets_fit_a_small_integer() -> None:
    assert response_bucket(0) == response_bucket(1) == 0
    assert 0 < response_bucket(2) < response_bucket(2**53) < 2**15


def test_without_sessions_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({3: 0}, 0.5) is None


@pytest.mark.parametrize(("q", "time"), [(0.0, 10), (0.5, 20), (1.0, 30)])
def test_the_ends_and_the_middle_are_quantiles_too(q: float, time: int) -> None:
    assert quantile(counted([30, 10, 20]), q) == pytest.approx(time, rel=RELATIVE_ERROR)


@pytest.mark.parametrize(
    ("granularity", "start"),
    [
        (Granularity.MINUTE, datetime(2026, 11, 22, 23, 59, tzinfo=UTC)),
        (Granularity.HOUR, datetime(2026, 11, 22, 23, tzinfo=UTC)),
        (Granularity.DAY, datetime(2026, 11, 22, tzinfo=UTC)),
        (Granularity.WEEK, datetime(2026, 11, 16, tzinfo=UTC)),
    ],
)
def test_buckets_of_time_are_those_of_utc(granularity: Granularity, start: datetime) -> None:
    last = datetime(2026, 11, 22, 23, 59, 59, 999999, tzinfo=UTC)
    assert bucket_of(last, granularity) == bucket_of(start, granularity) == start
    assert bucket_of(last.astimezone(timezone(timedelta(hours=5, minutes=45))), granularity) == start
    assert next_bucket(start, granularity) == start
    assert next_bucket(last, granularity) == start + granularity.length


@given(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_a_bucket_holds_its_moment_and_lies_in_one_of_each_coarser_granularity(moment: datetime) -> None:
    starts = [bucket_of(moment, granularity) for granularity in Granularity]
    assert all(start <= moment < start + one.length for one, start in zip(Granularity, starts, strict=True))
    assert starts == sorted(starts, reverse=True)
    for start, finer in zip(starts[1:], Granularity, strict=False):
        assert bucket_of(start, finer) == start
    *_, hour, day, week = starts
    assert (hour.minute, day.hour, week.hour, week.isoweekday()) == (0, 0, 0, 1)


def test_a_response_bound_is_the_longest_time_of_its_bucket() -> None:
    for bucket in (100, 300, len(RESPONSE_BOUNDS) - 1):
        assert response_bucket(RESPONSE_BOUNDS[bucket]) == bucket
        assert response_bucket(RESPONSE_BOUNDS[bucket] + 1) == bucket + 1
    assert RESPONSE_BOUNDS[-1] >= 2**53
