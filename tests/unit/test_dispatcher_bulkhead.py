"""How many calls a webhook takes: answers in, limit out; and for how long it has been stuck."""

import random
from itertools import pairwise

import pytest

from services.webhook_dispatcher.breaker import FAILURES, OPEN_SECONDS, BreakerState
from services.webhook_dispatcher.bulkhead import FIRST_LIMIT, SHORTEST_HANG_SECONDS, Bulkhead
from services.webhook_dispatcher.health import Health


def fill(calls: Bulkhead | Health, now: float) -> int:
    before = calls.running
    if isinstance(calls, Health):
        while calls.begin(now, 10.0):
            pass
    else:
        while calls.admits():
            calls.begin(now, 10.0)
    return calls.running - before


def answer_a_round(bulkhead: Bulkhead, now: float) -> None:
    for _ in range(fill(bulkhead, now)):
        bulkhead.answered(now, now + 0.05)


def test_it_grows_fast_while_calls_answer_up_to_the_ceiling() -> None:
    bulkhead = Bulkhead(ceiling=400)
    limits = []
    for second in range(10):
        limits.append(bulkhead.limit)
        answer_a_round(bulkhead, float(second))
    assert limits[0] == FIRST_LIMIT
    # Only the answers that come while the limit is in use count.
    assert all(1.3 * before <= after for before, after in pairwise(limits) if after < 400)
    assert bulkhead.limit == 400


def test_it_does_not_grow_while_it_is_not_used() -> None:
    bulkhead = Bulkhead(ceiling=400)
    for second in range(1_000):
        bulkhead.begin(float(second), 10.0)
        bulkhead.answered(float(second), second + 0.05)
    assert bulkhead.limit == FIRST_LIMIT


def test_a_round_of_failures_halves_it() -> None:
    bulkhead = Bulkhead(ceiling=400)
    for limit in (FIRST_LIMIT, FIRST_LIMIT // 2):
        assert fill(bulkhead, 0.0) == limit
        for _ in range(limit):
            bulkhead.unwell()
        assert bulkhead.limit == limit // 2


def test_a_webhook_that_fails_now_and_then_keeps_its_places() -> None:
    bulkhead, chance = Bulkhead(ceiling=400), random.Random(1)
    for second in range(400):
        for _ in range(fill(bulkhead, float(second))):
            bulkhead.unwell() if chance.random() < 0.02 else bulkhead.answered(float(second), second + 0.05)
    assert bulkhead.limit > FIRST_LIMIT // 2


def test_it_never_goes_below_one_and_comes_back() -> None:
    bulkhead = Bulkhead(ceiling=400)
    for second in range(200):
        bulkhead.begin(float(second), 10.0)
        bulkhead.unwell()
    assert bulkhead.limit == 1
    assert bulkhead.admits()
    for second in range(200, 220):
        answer_a_round(bulkhead, float(second))
    grown_by_one_at_a_time = bulkhead.limit
    assert 5 <= grown_by_one_at_a_time <= 25
    bulkhead.recovered()
    for second in range(220, 226):
        answer_a_round(bulkhead, float(second))
    assert bulkhead.limit > 5 * grown_by_one_at_a_time


def test_it_settles_where_the_webhook_begins_to_refuse() -> None:
    bulkhead, capacity, seen = Bulkhead(ceiling=400), 100, []
    for second in range(400):
        running = fill(bulkhead, float(second))
        for number in range(running):
            if number < capacity:
                bulkhead.answered(float(second), second + 0.05)
            else:
                bulkhead.unwell()
        seen.append(running)
    late = seen[100:]
    # A few calls more than are taken, to notice when more are.
    assert capacity - 5 <= min(late)
    assert max(late) <= capacity + 10


def test_calls_that_hang_hold_their_places() -> None:
    bulkhead = Bulkhead(ceiling=400)
    fill(bulkhead, 0.0)
    assert not bulkhead.admits()
    bulkhead.abandoned()
    assert bulkhead.admits()


def test_before_the_first_answer_calls_hang_after_their_timeout() -> None:
    bulkhead = Bulkhead(ceiling=400)
    assert bulkhead.hanging_since(1_000.0) is None
    bulkhead.begin(0.0, 30.0)
    assert bulkhead.hanging_since(29.9) is None
    assert bulkhead.hanging_since(40.0) == 30.0


@pytest.mark.parametrize(("usual", "patience"), [(0.05, SHORTEST_HANG_SECONDS), (4.0, 16.0), (25.0, 30.0)])
def test_calls_hang_when_nothing_is_answered_for_much_longer_than_usual(usual: float, patience: float) -> None:
    bulkhead = Bulkhead(ceiling=400)
    bulkhead.begin(0.0, 30.0)
    bulkhead.answered(0.0, usual)
    bulkhead.begin(100.0, 30.0)
    assert bulkhead.hanging_since(100.0 + patience - 0.1) is None
    assert bulkhead.hanging_since(100.0 + patience + 0.1) == 100.0 + patience


def test_one_that_answers_now_and_then_does_not_hang() -> None:
    bulkhead = Bulkhead(ceiling=400)
    for _ in range(10):
        bulkhead.begin(0.0, 30.0)
    for number in range(9):
        bulkhead.answered(0.0, 20.0 * (number + 1))
        assert bulkhead.hanging_since(20.0 * (number + 1) + 19.0) is None


def broken(at: float = 0.0) -> Health:
    health = Health(400)
    for _ in range(FAILURES):
        assert health.begin(at, 10.0)
        health.ended(at, at, unwell=True)
    assert health.state is BreakerState.OPEN
    return health


def test_one_probe_at_a_time() -> None:
    health = broken(at=100.0)
    assert not health.begin(101.0, 10.0)
    assert health.seconds_until_probe(101.0) == OPEN_SECONDS - 1.0
    assert health.begin(100.0 + OPEN_SECONDS, 10.0)
    assert not health.begin(100.0 + OPEN_SECONDS, 10.0)
    # Nothing but its end tells more.
    assert health.seconds_until_probe(100.0 + OPEN_SECONDS) is None


def test_no_probe_is_awaited_while_old_calls_hold_every_place() -> None:
    health = Health(400)
    assert health.begin(0.0, 60.0)
    health.ended(0.0, 0.0, unwell=True)
    fill(health, 0.0)
    health.ended(0.0, 0.0, unwell=False)
    while health.state is BreakerState.CLOSED:
        fill(health, 0.0)
        health.ended(0.0, 0.0, unwell=True)
    assert health.running == health.limit
    assert not health.begin(OPEN_SECONDS, 10.0)
    assert health.seconds_until_probe(OPEN_SECONDS) is None
    health.ended(0.0, OPEN_SECONDS, unwell=True)
    assert health.seconds_until_probe(OPEN_SECONDS) == 0.0
    assert health.begin(OPEN_SECONDS, 10.0)


def test_the_stuck_clock_stands_still_while_it_gets_on() -> None:
    health = broken(at=100.0)
    assert health.stuck(100.0)
    assert health.stuck_seconds(103.0) == 3.0
    assert health.begin(106.0, 10.0)
    health.ended(106.0, 107.0, unwell=False)
    assert not health.stuck(107.0)
    assert health.stuck_seconds(110.0) == health.stuck_seconds(1_000.0) == 7.0


def test_the_stuck_clock_counts_from_when_calls_began_to_hang() -> None:
    health = Health(400)
    assert health.begin(0.0, 10.0)
    assert health.stuck_seconds(9.0) == 0.0
    assert health.stuck_seconds(13.0) == 3.0
    health.ended(0.0, 14.0, unwell=False)
    assert health.stuck_seconds(20.0) == 4.0
