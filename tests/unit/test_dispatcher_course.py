"""Which of a call's limits comes next."""

from services.webhook_dispatcher.course import Course, Limit


def test_until_there_is_a_connection_only_the_total_counts() -> None:
    course = Course(100.0, 10.0, first_byte_seconds=2.0, idle_seconds=1.0)
    assert course.next_limit() == (110.0, Limit.CONNECT)
    assert (course.connect_ms, course.first_byte_ms) == (None, None)


def test_each_stage_has_its_own_limit_within_the_total() -> None:
    course = Course(100.0, 10.0, first_byte_seconds=2.0, idle_seconds=1.0)
    course.connected(100.5)
    assert course.next_limit() == (102.5, Limit.FIRST_BYTE)
    course.answered(102.0)
    assert course.next_limit() == (103.0, Limit.IDLE)
    course.heard(109.5)
    assert course.next_limit() == (110.0, Limit.TOTAL)
    assert (course.connect_ms, course.first_byte_ms, course.duration_ms(110.0)) == (500, 2000, 10_000)


def test_without_limits_of_their_own_the_total_alone_counts() -> None:
    course = Course(100.0, 10.0)
    for step in (course.connected, course.answered, course.heard):
        step(109.0)
        assert course.next_limit() == (110.0, Limit.TOTAL)


def test_a_limit_says_its_name_and_its_seconds() -> None:
    course = Course(0.0, 10.0, first_byte_seconds=2.5, idle_seconds=1.0)
    assert [course.limit_text(limit).partition(" s")[0] for limit in Limit] == [
        "no connection within 10",
        "firstByteSeconds, 2.5",
        "idleSeconds, 1",
        "10",
    ]
