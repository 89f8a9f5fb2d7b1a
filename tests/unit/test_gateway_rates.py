"""Sliding windows."""

from hypothesis import given
from hypothesis import strategies as st

from services.api_gateway.rates import RateLimit


def test_a_limit_of_zero_is_none() -> None:
    limit = RateLimit("messages", 0)
    assert all(limit.hit("ada", 0.0) is None for _ in range(1000))


def test_keys_do_not_share_a_limit() -> None:
    limit = RateLimit("messages", 1)
    first, second, other = limit.hit("ada", 1.0), limit.hit("ada", 1.0), limit.hit("bob", 1.0)
    assert first
    assert first.allowed
    assert second
    assert not second.allowed
    assert other
    assert other.allowed


def test_a_burst_over_the_edge_of_a_window_is_no_double_one() -> None:
    limit = RateLimit("messages", 60)
    assert all(verdict.allowed for _ in range(60) if (verdict := limit.hit("ada", 59.9)))
    after = limit.hit("ada", 60.1)
    assert after
    assert not after.allowed


@given(st.integers(1, 50), st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=300))
def test_whoever_waits_as_told_is_allowed(maximum: int, pauses: list[float]) -> None:
    limit, now = RateLimit("messages", maximum), 0.0
    for pause in pauses:
        now += pause
        verdict = limit.hit("ada", now)
        assert verdict is not None
        if not verdict.allowed:
            assert 1 <= verdict.reset_seconds <= 120
            now += verdict.reset_seconds
            again = limit.hit("ada", now)
            assert again
            assert again.allowed


@given(st.integers(1, 20), st.lists(st.floats(0, 10, allow_nan=False), max_size=200))
def test_no_calendar_minute_holds_more_than_the_limit(maximum: int, pauses: list[float]) -> None:
    limit, now, allowed = RateLimit("messages", maximum), 0.0, []
    for pause in pauses:
        now += pause
        if (verdict := limit.hit("ada", now)) and verdict.allowed:
            allowed.append(now)
    for minute in {at // 60 for at in allowed}:
        assert sum(at // 60 == minute for at in allowed) <= maximum
