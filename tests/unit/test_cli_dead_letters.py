"""Which dead letters a person means, and how they are told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.commands.checkup.findings import Level
from services.commands.checkup.letters import letters
from services.commands.letters.selection import Choice, Disposition, Letter, State, read_since, with_dispositions
from services.commands.letters.told import letter_details, letter_lines
from services.runtime.dead_letter_tools import StoredDeadLetter

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STORED = StoredDeadLetter(
    letter_id="chat.messages.v1.session-tracker.dlq/4", written_at=NOW, topic="chat.messages.v1", partition=3, offset=7,
    group="session-tracker", reason="malformed", error="No JSON.", replayed=False, failed_again=False, omitted=None,
    key=b"c", value=b"the body\x1b", headers=(("ce_type", b"chat.MessageSent.v1"), ("ce_subject", b"the-session")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "taken"),
    [
        (Choice(), True),
        (Choice(topic="chat.messages.v1", group="session-tracker", reason="malformed", session="the-session"), True),
        (Choice(topic="chat.results.v1"), False),
        (Choice(group="webhook-dispatcher"), False),
        (Choice(reason="no-type"), False),
        (Choice(event_type="MessageSent"), True),
        (Choice(event_type="chat.MessageSent.v1"), True),
        (Choice(event_type="CancelRequested"), False),
        (Choice(session="another"), False),
        (Choice(session="the body"), True),
        (Choice(since=NOW), True),
        (Choice(since=NOW + timedelta(seconds=1)), False),
    ],
)
def test_filters_all_hold(choice: Choice, taken: bool) -> None:
    assert choice.takes(STORED) is taken


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-23T10:00", NOW.replace(hour=10)),
        ("2026-11-23T11:00+01:00", NOW.replace(hour=10)),
        ("yesterday", None),
        ("7", None),
    ],
)
def test_since_is_a_time_or_how_long_ago(text: str, moment: datetime | None) -> None:
    assert read_since(text, NOW) == moment


def test_a_letter_is_open_until_somebody_decides() -> None:
    decided = {STORED.place: Disposition(State.DROPPED, "ann", NOW, "test data")}
    assert [letter.state for letter in with_dispositions([STORED], decided)] == [State.DROPPED]
    assert Letter(replace(STORED, replayed=True)).state is State.REPLAYED
    assert Letter(STORED, Disposition(State.REPLAYING, "ann", NOW)).is_open
    told = "1 letter undecided: 1 malformed (session-tracker); the newest 3 min ago."
    assert letters([Letter(STORED)], NOW + timedelta(minutes=3)).told == told
    others = [Letter(replace(STORED, group="webhook-dispatcher")), Letter(replace(STORED, reason="no-type"))]
    told = "4 letters undecided: 3 malformed (session-tracker 2, webhook-dispatcher 1), 1 no-type (session-tracker); "
    assert letters([Letter(STORED), Letter(STORED), *others], NOW).told.startswith(told)
    assert letters([], NOW).level is Level.WELL


def test_a_line_of_the_list_has_only_the_beginning_of_a_long_reason() -> None:
    error = "; ".join(f"field{n}: Field required" for n in range(5))
    letter = Letter(replace(STORED, error=error))
    (told,) = letter_lines([letter], [letter])
    assert told.endswith("  malformed: field0, field1, field2, field3, field4: Field required")
    error = "; ".join(f"a.longer.field{n}: Complaint {n}" for n in range(5))
    letter = Letter(
        replace(STORED, error=error, key=b"conversation-1", headers=(("ce_subject", str(UUID(int=0)).encode()),))
    )
    (told,) = letter_lines([letter], [letter])
    assert len(told) <= 160
    assert told.endswith(f"  {UUID(int=0)}  malformed: a.longer.field0: Complaint 0; a.longer.field1: Complaint…")
    (told,) = letter_lines([letter], [letter], whole=True)
    assert told.endswith(f"  malformed: {error}")
    assert f"Reason        malformed: {error}" in [*letter_details(letter, body=False)]


def test_details_show_what_a_user_wrote_only_when_asked() -> None:
    letter = Letter(STORED, Disposition(State.DROPPED, "ann", NOW, "test data"))
    told = "\n".join(letter_details(letter, body=False))
    assert "dropped by ann at 2026-11-23 12:00:00 UTC, because 'test data'" in told
    assert "9 bytes; --body shows it" in told
    assert "the body" not in told
    assert [*letter_details(letter, body=True)][-1] == "the body\\x1b"
