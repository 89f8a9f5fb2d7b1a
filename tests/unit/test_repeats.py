"""A fault that repeats is one line and a count."""

from services.runtime.repeats import Fault, Repeats

AWAY, OTHER = Fault("aiokafka", "Unable to connect to %s", "OSError"), Fault("aiokafka", "Unable to connect to %s", "")


def take(repeats: Repeats, fault: Fault, now: float) -> int | None:
    return repeats.take(fault, now, lambda: f"told at {now}")


def test_one_line_a_period_tells_how_many_were_left_out() -> None:
    repeats = Repeats(10)
    assert [take(repeats, AWAY, now) for now in (0, 1, 9.9)] == [0, None, None]
    assert take(repeats, OTHER, 9.9) == 0
    assert [take(repeats, AWAY, now) for now in (10, 11, 20)] == [2, None, 1]


def test_what_is_over_is_told_once() -> None:
    repeats = Repeats(10)
    for now in (0, 1, 2):
        take(repeats, AWAY, now)
    take(repeats, OTHER, 5)
    assert [*repeats.over(19)] == []
    assert [*repeats.over(20)] == [(AWAY, "told at 2", 2)]
    assert [*repeats.over(100)] == []
    assert take(repeats, AWAY, 100) == 0


def test_only_so_many_faults_are_remembered() -> None:
    repeats = Repeats(10, most=2)
    faults = [Fault("x", str(number), "") for number in range(3)]
    assert [take(repeats, fault, 0) for fault in faults] == [0, 0, 0]
    assert [take(repeats, fault, 1) for fault in reversed(faults)] == [None, None, 0]
