"""The circuit breaker's states: event in, state out."""

from services.webhook_dispatcher.breaker import FAILURES, OPEN_SECONDS, Breaker, BreakerState


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admits(at)
        breaker.failed(at, at)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0, 0.0)
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.admits(0.0)


def test_open_admits_nothing_until_its_time_is_over_and_then_one_probe() -> None:
    breaker = opened(at=100.0)
    assert not breaker.admits(100.0 + OPEN_SECONDS - 0.01)
    assert breaker.seconds_until_probe(101.0) == OPEN_SECONDS - 1
    assert breaker.admits(100.0 + OPEN_SECONDS)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.admits(100.0 + OPEN_SECONDS)
    assert not breaker.admits(1_000.0)
    assert breaker.seconds_until_probe(1_000.0) is None


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened(at=100.0)
    breaker.admits(110.0)
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.seconds_until_probe(110.0) == 0
    for _ in range(FAILURES - 1):
        breaker.failed(110.0, 111.0)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    breaker = opened(at=100.0)
    breaker.admits(110.0)
    breaker.failed(110.0, 112.0)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits(112.0 + OPEN_SECONDS - 0.01)
    assert breaker.admits(112.0 + OPEN_SECONDS)


def test_a_probe_that_is_broken_off_lets_the_next_call_be_one() -> None:
    breaker = opened(at=100.0)
    breaker.admits(110.0)
    breaker.abandoned(110.0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.admits(110.0)


def test_calls_that_began_before_it_opened_do_not_prolong_it() -> None:
    breaker = opened(at=100.0)
    breaker.failed(99.0, 104.0)
    assert breaker.admits(100.0 + OPEN_SECONDS)


def test_calls_that_began_before_it_opened_do_not_end_the_probe() -> None:
    breaker = opened(at=100.0)
    assert breaker.admits(110.0)
    breaker.failed(99.0, 111.0)
    breaker.abandoned(99.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.admits(1_000.0)
    breaker.failed(110.0, 120.0)
    assert breaker.state is BreakerState.OPEN


def test_a_call_broken_off_while_closed_tells_nothing() -> None:
    breaker = Breaker()
    breaker.abandoned(0.0)
    assert breaker.state is BreakerState.CLOSED
