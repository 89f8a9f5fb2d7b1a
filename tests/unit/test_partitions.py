"""Months as ranges of UUIDv7."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import new_id
from services.contracts.ids import id_milliseconds, id_time
from services.database.partitions import first_id, id_at, month_of, next_month

moments = st.datetimes(datetime(2020, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ONE_MILLISECOND = timedelta(milliseconds=1)


def month(year: int, number: int) -> datetime:
    return datetime(year, number, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("this", "following"),
    [
        (month(2026, 1), month(2026, 2)),
        (month(2026, 11), month(2026, 12)),
        (month(2026, 12), month(2027, 1)),
        (month(2024, 2), month(2024, 3)),
        (month(2099, 12), month(2100, 1)),
    ],
)
def test_the_next_month(this: datetime, following: datetime) -> None:
    assert next_month(this) == following


@pytest.mark.parametrize("this", [month(2026, 11), month(2026, 12), month(2028, 2)])
def test_the_last_id_of_a_month_is_below_the_first_of_the_next(this: datetime) -> None:
    boundary = first_id(next_month(this))
    last = UUID(int=boundary.int - 1)
    assert month_of(boundary) == next_month(this)
    assert month_of(last) == this
    assert id_time(last) == next_month(this) - ONE_MILLISECOND
    assert first_id(this) < last < boundary


def test_a_boundary_is_the_months_first_millisecond_and_nothing_else() -> None:
    assert str(first_id(month(2026, 11))) == "01a19467-e800-0000-0000-000000000000"


@given(moments)
def test_an_id_lies_in_its_own_month(moment: datetime) -> None:
    made = id_at(moment)
    this = month_of(made)
    assert this <= moment < next_month(this)
    assert first_id(this) <= made < first_id(next_month(this))


@given(moments)
def test_the_lowest_id_of_a_moment_is_of_its_own_millisecond(moment: datetime) -> None:
    assert id_milliseconds(id_at(moment)) == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // ONE_MILLISECOND
    assert id_time(id_at(moment)) <= moment + timedelta(microseconds=1)


def test_a_fresh_id_lies_between_the_ids_of_the_moments_around_it() -> None:
    before = id_at(datetime.now(UTC))
    made = new_id()
    assert before < made < id_at(datetime.now(UTC) + timedelta(seconds=1))
