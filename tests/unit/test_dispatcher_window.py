"""What a partition may hold, and which persona holds too much of it."""

from services.webhook_dispatcher.window import Bounds, Window

WIDE = Bounds(records=1_000, bytes=1_000_000, span=1_000_000)


def taken(bounds: Bounds, count: int, size: int = 10) -> Window:
    window = Window(bounds)
    for offset in range(count):
        assert window.take(offset, size)
    return window


def test_it_is_full_by_records_until_it_is_low_again() -> None:
    window = taken(Bounds(records=20, bytes=10**6, span=10**6), 20)
    assert window.full
    for offset in range(5):
        window.finish(offset)
        assert window.full
    window.finish(5)
    assert not window.full
    assert (len(window), window.committable()) == (14, 6)


def test_it_is_full_by_bytes() -> None:
    window = taken(Bounds(records=1_000, bytes=100, span=10**6), 9, size=10)
    assert not window.full
    window.take(9, 500)
    assert window.full
    window.finish(9)
    assert window.full
    for offset in range(2):
        window.finish(offset)
    assert not window.full


def test_one_record_that_does_not_end_fills_it_by_span() -> None:
    window = taken(Bounds(records=1_000, bytes=10**6, span=50), 50)
    for offset in range(1, 50):
        window.finish(offset)
    assert (len(window), window.full, window.committable()) == (1, True, 0)
    window.finish(0)
    assert (window.full, window.committable()) == (False, 50)


def test_a_record_is_taken_once() -> None:
    window = taken(WIDE, 3)
    assert not window.take(1, 10)
    assert len(window) == 3


def test_more_than_half_is_beyond_a_stuck_personas_share() -> None:
    window = taken(Bounds(records=20, bytes=10**6, span=10**6), 15)
    for offset in range(10):
        window.hold(offset, "sick")
    window.hold(14, "well")
    assert list(window.all_beyond_share()) == []
    window.hold(10, "sick")
    assert list(window.all_beyond_share()) == ["sick"]
    assert not window.beyond_share("well")
    window.let_go(10)
    assert not window.beyond_share("sick")


def test_the_share_counts_bytes_too_and_ends_with_the_record() -> None:
    window = taken(Bounds(records=1_000, bytes=100, span=10**6), 2, size=30)
    window.hold(0, "sick")
    window.hold(1, "sick")
    assert window.beyond_share("sick")
    window.let_go(1)
    window.finish(1)
    assert not window.beyond_share("sick")
    window.finish(0)
    assert not window.beyond_share("sick")
    assert len(window) == 0


def test_of_what_waits_the_oldest_half_is_kept() -> None:
    window = taken(Bounds(records=20, bytes=10**6, span=10**6), 16)
    assert list(window.too_much([[0], [1, 2, 3], [4, 5, 6, 7, 8, 9]])) == []
    assert list(window.too_much([[0], [1, 2, 3], [4, 5, 6, 7, 8, 9], [10], [11]])) == [3, 4]
    heavy = taken(Bounds(records=1_000, bytes=100, span=10**6), 7, size=10)
    assert list(heavy.too_much([[0, 1], [2, 3], [4], [5]])) == [3]


def test_what_keeps_half_of_the_span_waiting_is_too_much() -> None:
    window = taken(Bounds(records=1_000, bytes=10**6, span=50), 30)
    assert list(window.too_much([[3], [4], [5], [29]])) == [0, 1]
