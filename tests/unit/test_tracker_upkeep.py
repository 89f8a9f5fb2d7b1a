"""In which order a tracker looks at the hours that have been counted."""

from datetime import UTC, datetime, timedelta

from services.session_tracker.upkeep import next_hour


def test_the_hours_are_gone_through_backwards_and_again() -> None:
    newest, oldest = datetime(2026, 11, 22, 12, tzinfo=UTC), datetime(2026, 11, 22, 10, tzinfo=UTC)
    hour, seen = None, []
    for _ in range(5):
        hour = next_hour(hour, newest, oldest)
        seen.append(hour.hour)
    assert seen == [12, 11, 10, 12, 11]
    assert next_hour(newest + timedelta(hours=1), newest, oldest) == newest
    assert next_hour(oldest - timedelta(hours=1), newest, oldest) == newest
