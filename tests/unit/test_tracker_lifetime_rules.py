"""When months are due, which settings are refused, and what counts as personal."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.contracts.ids import new_id
from services.database.partitions import id_at
from services.runtime.settings import WrongSettings, read_settings
from services.session_tracker.personal import foldable, without_personal
from services.session_tracker.retention import due_months
from services.session_tracker.settings import TrackerSettings
from services.session_tracker.timeouts import Timeouts
from tests.sample_events import SessionEvents

JUNE, JULY, AUGUST = (datetime(2026, month, 1, tzinfo=UTC) for month in (6, 7, 8))
NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEEP = timedelta(days=30)


def test_a_month_is_due_once_its_last_session_is_old_enough() -> None:
    months = [JULY, JUNE]
    assert list(due_months(months, AUGUST, timedelta(days=0))) == [JUNE, JULY]
    assert list(due_months(months, AUGUST + KEEP - timedelta(microseconds=1), KEEP)) == [JUNE]
    assert list(due_months(months, AUGUST + KEEP, KEEP)) == [JUNE, JULY]


@pytest.mark.parametrize("days", ["0", "7", "3650"])
def test_a_retention_that_kafka_does_not_outlive_is_taken(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    monkeypatch.setenv("CHAT_SESSION_RETENTION_DAYS", days)
    assert read_settings(TrackerSettings).chat_session_retention_days == int(days)


@pytest.mark.parametrize("days", ["1", "6", "-1", "two weeks"])
def test_any_other_stops_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    monkeypatch.setenv("CHAT_SESSION_RETENTION_DAYS", days)
    with pytest.raises(WrongSettings) as refused:
        read_settings(TrackerSettings)
    (problem,) = refused.value.problems
    assert problem.startswith("CHAT_SESSION_RETENTION_DAYS is wrong: ")
    assert "\n" not in problem


def test_the_applications_own_metadata_stays() -> None:
    kept = {"channel": "web", "userAgentHint": "x", "nested": {"ipAddress": "theirs"}}
    assert without_personal({**kept, "ipAddress": "a", "userAgent": "b", "deviceInfo": {}}) == kept


@pytest.mark.parametrize(
    ("age", "stays"),
    [
        (timedelta(), True),
        (KEEP - timedelta(minutes=61), True),
        (KEEP - timedelta(minutes=59), False),
        (2 * KEEP, False),
    ],
)
def test_messages_of_old_sessions_are_folded_without_personal_data(age: timedelta, stays: bool) -> None:
    session_id = UUID(int=id_at(NOW - age).int | new_id().int & (1 << 80) - 1)
    events = SessionEvents(session_id=session_id)
    sent, reply = events.sent(), events.succeeded()
    folded = foldable(sent, NOW, KEEP)
    assert (folded == sent) is stays
    assert folded.model_copy(update={"metadata": sent.metadata}) == sent
    assert foldable(sent, NOW, None) is sent
    assert foldable(reply, NOW, KEEP) is reply


def test_each_persona_has_its_own_limit_and_the_index_is_read_up_to_the_latest() -> None:
    timeouts = Timeouts(24, {"slow": 72, "quick": 2})
    assert [timeouts.of(persona) for persona in ("slow", "quick", "other")] == [72, 2, 24]
    hours = {hours: NOW - timedelta(hours=hours) for hours in (2, 24, 72)}
    assert timeouts.limits(NOW) == (hours[2], ["quick", "slow"], [hours[2], hours[72]], hours[24])
    assert Timeouts(24).limits(NOW) == (hours[24], [], [], hours[24])
