"""Offsets that finish in any order, and what is known of sessions."""

import random
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.webhook_dispatcher.tracking import KnownSessions, Offsets

ANNA = ("c1", "p1", "anna")
BERT = ("c1", "p1", "bert")


def session(milliseconds: int, number: int = 0) -> UUID:
    return UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | number)


def known(from_ms: int = 0, target_ms: int = 0, most: int = 1_000) -> KnownSessions:
    sessions = KnownSessions(most)
    sessions.begin_reading(from_ms, target_ms)
    return sessions


def test_nothing_is_committable_before_the_first_record() -> None:
    assert Offsets().committable() is None


def test_the_lowest_unfinished_offset_is_committable() -> None:
    offsets = Offsets()
    assert [offsets.take(n) for n in (5, 6, 7, 9)] == [True] * 4
    assert offsets.committable() == 5
    offsets.finish(6)
    offsets.finish(9)
    assert (offsets.committable(), len(offsets)) == (5, 2)
    offsets.finish(5)
    assert offsets.committable() == 7
    offsets.finish(7)
    assert (offsets.committable(), len(offsets)) == (10, 0)


def test_a_record_is_taken_once() -> None:
    offsets = Offsets()
    assert offsets.take(5)
    assert not offsets.take(5)
    offsets.finish(5)
    assert not offsets.take(5)
    assert offsets.take(6)


@given(st.lists(st.integers(0, 3), max_size=60), st.randoms())
def test_committable_never_passes_an_unfinished_record(gaps: list[int], chance: random.Random) -> None:
    offsets, unfinished, following = Offsets(), set(), 0
    for gap in gaps:
        following += gap
        offsets.take(following)
        unfinished.add(following)
        following += 1
        while unfinished and chance.random() < 0.5:
            offsets.finish(done := chance.choice(sorted(unfinished)))
            unfinished.remove(done)
        assert offsets.committable() == min(unfinished, default=following)


def test_it_covers_nothing_before_it_was_read() -> None:
    assert not KnownSessions().covers(0)
    assert not KnownSessions().covers(2**47)


def test_an_ended_session_needs_no_call_and_others_do() -> None:
    sessions = known()
    sessions.add(session(5), None)
    assert sessions.needs_no_call(session(5), ANNA)
    assert not sessions.needs_no_call(session(6), ANNA)


def test_a_cancel_counts_for_its_own_session_only() -> None:
    sessions = known()
    sessions.add(session(5), BERT)
    assert not sessions.needs_no_call(session(5), ANNA)
    assert sessions.needs_no_call(session(5), BERT)
    sessions.add(session(6), ANNA)
    sessions.add(session(6), BERT)
    assert sessions.needs_no_call(session(6), ANNA)
    sessions.add(session(5), None)
    sessions.add(session(5), BERT)
    assert sessions.needs_no_call(session(5), ANNA)


def test_what_lies_before_the_reading_is_not_covered_nor_kept() -> None:
    sessions = known(from_ms=100, target_ms=150)
    sessions.add(session(99), None)
    assert len(sessions) == 0
    assert [sessions.covers(ms) for ms in (99, 100, 10**12)] == [False, True, True]


def test_reading_again_forgets() -> None:
    sessions = known()
    sessions.add(session(5), None)
    sessions.begin_reading(0, 0)
    assert not sessions.needs_no_call(session(5), ANNA)


def test_while_it_follows_the_oldest_are_forgotten() -> None:
    sessions = known(most=10)
    sessions.end_reading()
    for ms in range(100):
        sessions.add(session(ms), None)
        assert len(sessions) <= 10
    assert sessions.covers(99)
    assert not sessions.covers(80)
    assert all(sessions.needs_no_call(session(ms), ANNA) for ms in range(100) if sessions.covers(ms))


def test_while_it_reads_far_back_the_target_stays_covered() -> None:
    sessions = known(from_ms=0, target_ms=50, most=10)
    order = list(range(1_000))
    random.Random(1).shuffle(order)
    for ms in order:
        sessions.add(session(ms), None)
        assert len(sessions) <= 11
    sessions.end_reading()
    assert sessions.covers(50)
    assert not sessions.covers(999)
    assert all(sessions.needs_no_call(session(ms), ANNA) for ms in range(1_000) if sessions.covers(ms))


def test_more_sessions_of_one_millisecond_than_fit_are_all_kept() -> None:
    sessions = known(from_ms=0, target_ms=50, most=10)
    for number in range(30):
        sessions.add(session(50, number), None)
    assert sessions.covers(50)
    assert all(sessions.needs_no_call(session(50, number), ANNA) for number in range(30))
