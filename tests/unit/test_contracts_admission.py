"""What may be acted upon: each rule at its bound and one past it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import Event, NotAdmitted, admit, new_id
from services.contracts.admission import (
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    MAX_REPLY_BYTES,
    MAX_TEXT_BYTES,
    admit_text,
    shortened,
    storable,
)
from services.contracts.ids import derived_id, id_milliseconds, id_time
from tests.unit.events import (
    NOW,
    attempted,
    cancel_requested,
    erasure_requested,
    failed,
    message_sent,
    one_of_each,
    succeeded,
    timeout_sweep,
)

SECOND = timedelta(seconds=1)
SKEW = timedelta(minutes=5)


def reason_of(event: Event) -> str:
    with pytest.raises(NotAdmitted) as refused:
        admit(event, NOW)
    assert refused.value.explanation == str(refused.value)
    return refused.value.reason


def uuid7_at(moment: datetime) -> UUID:
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62)


@pytest.mark.parametrize("event", one_of_each(), ids=lambda event: type(event).__name__)
def test_a_sound_event_is_admitted(event: Event) -> None:
    admit(event, NOW)


@pytest.mark.parametrize("event", one_of_each(), ids=lambda event: type(event).__name__)
def test_times_are_at_most_five_minutes_ahead_and_not_before_2020(event: Event) -> None:
    admit(event.model_copy(update={"occurred_at": NOW + SKEW}), NOW)
    assert reason_of(event.model_copy(update={"occurred_at": NOW + SKEW + SECOND})) == "time-ahead"
    admit(event.model_copy(update={"occurred_at": datetime(2020, 1, 1, tzinfo=UTC)}), NOW)
    assert reason_of(event.model_copy(update={"occurred_at": datetime(2020, 1, 1, tzinfo=UTC) - SECOND})) == "time-past"


@pytest.mark.parametrize("offset", [-24, 24])
@pytest.mark.parametrize("year", [1, 9999])
def test_times_at_the_ends_of_the_calendar_are_refused_and_never_overflow(year: int, offset: int) -> None:
    hours = f"{'+' if offset > 0 else '-'}23:59"
    edge = datetime.fromisoformat(f"{year:04}-{'01-01' if year == 1 else '12-31'}T00:00:00{hours}")
    reason = "time-past" if year == 1 else "time-ahead"
    assert reason_of(message_sent(occurred_at=edge)) == reason
    assert reason_of(timeout_sweep(as_of=edge)) == reason
    assert reason_of(attempted(deadline_at=edge)) == reason
    assert reason_of(attempted(retry_at=edge)) == reason
    assert reason_of(erasure_requested(before=edge)) == reason


def test_a_deadline_may_lie_far_ahead() -> None:
    admit(attempted(deadline_at=NOW + timedelta(days=400)), NOW)


def test_a_sweep_is_not_of_the_future() -> None:
    assert reason_of(timeout_sweep(as_of=NOW + SKEW + SECOND)) == "time-ahead"


@pytest.mark.parametrize("session_id", [uuid4(), derived_id("x"), UUID(int=0), UUID(int=2**128 - 1)])
def test_a_session_id_is_a_uuid7(session_id: UUID) -> None:
    assert reason_of(message_sent(session_id=session_id)) == "session-id"


def test_a_session_id_is_at_most_five_minutes_ahead_and_not_before_2020() -> None:
    admit(message_sent(session_id=uuid7_at(NOW + SKEW)), NOW)
    assert reason_of(message_sent(session_id=uuid7_at(NOW + SKEW + SECOND))) == "session-id-ahead"
    assert reason_of(message_sent(session_id=UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"))) == "session-id-ahead"
    admit(message_sent(session_id=uuid7_at(datetime(2020, 1, 1, tzinfo=UTC))), NOW)
    assert reason_of(message_sent(session_id=uuid7_at(datetime(2019, 12, 31, 23, 59, tzinfo=UTC)))) == "session-id-past"


@pytest.mark.parametrize("field", ["conversation_id", "persona_id", "user_id", "template_id"])
def test_ids_have_1_to_128_characters(field: str) -> None:
    assert reason_of(message_sent(**{field: ""})) == "id-size"
    admit(message_sent(**{field: "x"}), NOW)
    admit(message_sent(**{field: "𝄞" * 128}), NOW)
    assert reason_of(message_sent(**{field: "x" * 129})) == "id-size"


@pytest.mark.parametrize("field", ["conversation_id", "user_id"])
def test_ids_of_an_erasure_have_1_to_128_characters(field: str) -> None:
    assert reason_of(erasure_requested(**{field: ""})) == "id-size"
    admit(erasure_requested(**{field: "x" * 128}), NOW)
    assert reason_of(erasure_requested(**{field: "x" * 129})) == "id-size"


TEXTS: list[tuple[Callable[..., Event], str, int]] = [
    (message_sent, "message", MAX_MESSAGE_BYTES),
    (attempted, "error_message", MAX_TEXT_BYTES),
    (attempted, "response_body", MAX_TEXT_BYTES),
    (attempted, "execution_id", MAX_TEXT_BYTES),
    (succeeded, "reply", MAX_REPLY_BYTES),
    (succeeded, "execution_id", MAX_TEXT_BYTES),
    (failed, "error_message", MAX_TEXT_BYTES),
    (failed, "response_body", MAX_TEXT_BYTES),
    (cancel_requested, "requested_by", MAX_TEXT_BYTES),
    (cancel_requested, "reason", MAX_TEXT_BYTES),
    (erasure_requested, "requested_by", MAX_TEXT_BYTES),
    (timeout_sweep, "requested_by", MAX_TEXT_BYTES),
]


@pytest.mark.parametrize(("make", "field", "limit"), TEXTS)
@pytest.mark.parametrize("character", ["x", "ä", "☂", "𝄞"])
def test_texts_are_bounded_in_bytes_of_utf8(make: Callable[..., Event], field: str, limit: int, character: str) -> None:
    width = len(character.encode())
    fitting = character * (limit // width) + "x" * (limit % width)
    assert len(fitting.encode()) == limit
    admit(make(**{field: fitting}), NOW)
    assert reason_of(make(**{field: fitting + "x"})) == "too-large"


def test_metadata_is_bounded_in_bytes_of_its_json() -> None:
    frame = len('{"k":""}')
    admit(message_sent(metadata={"k": "x" * (MAX_METADATA_BYTES - frame)}), NOW)
    assert reason_of(message_sent(metadata={"k": "x" * (MAX_METADATA_BYTES - frame + 1)})) == "too-large"
    assert reason_of(message_sent(metadata={"k": "ä" * (MAX_METADATA_BYTES // 2)})) == "too-large"


@pytest.mark.parametrize("bad", ["a\0b", "\0", "\ud800", "x\udfff", "\udbff\udbff"])
def test_texts_hold_no_nul_and_no_lone_surrogate(bad: str) -> None:
    for make, field, _ in TEXTS:
        assert reason_of(make().model_copy(update={field: bad})) == "characters"
    for field in ("conversation_id", "persona_id", "user_id", "template_id"):
        assert reason_of(message_sent().model_copy(update={field: bad})) == "characters"
    for metadata in ({"k": bad}, {bad: 1}, {"k": [{"deep": [bad]}]}, {"k": {bad: None}}):
        assert reason_of(message_sent().model_copy(update={"metadata": metadata})) == "characters"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_metadata_holds_no_number_that_json_cannot_carry(number: float) -> None:
    assert reason_of(message_sent(metadata={"k": [{"deep": number}]})) == "number"
    assert reason_of(message_sent(metadata={"k": number})) == "number"


def test_a_refusal_names_the_rule_and_never_the_text() -> None:
    with pytest.raises(NotAdmitted) as refused:
        admit(message_sent(message="secret" * MAX_MESSAGE_BYTES), NOW)
    assert refused.value.explanation == f"message has {6 * MAX_MESSAGE_BYTES} bytes; {MAX_MESSAGE_BYTES} are allowed."


any_text = st.text(st.characters() | st.sampled_from("\0\ud800\udfff𝄞ä"), max_size=60)


@given(any_text)
def test_what_storable_returns_is_admitted(text: str) -> None:
    stored = storable(text)
    admit_text("text", stored, 4 * len(text) + 4)
    assert len(stored) == len(text)
    for before, after in zip(text, stored, strict=True):
        assert after == ("\ufffd" if before == "\0" or "\ud800" <= before <= "\udfff" else before)


@given(any_text.map(storable), st.integers(0, 250))
def test_what_shortened_returns_fits_and_loses_no_more_than_it_must(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert text.startswith(short)
    assert len(short.encode()) <= limit
    if short != text:
        assert len(text[: len(short) + 1].encode()) > limit


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)))  # noqa: DTZ001
def test_an_id_carries_its_time_to_the_millisecond(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    read = id_time(uuid7_at(moment))
    assert abs(read - moment) <= timedelta(milliseconds=1)


def test_ids_beyond_the_calendar_have_the_last_time_of_it() -> None:
    assert id_time(UUID(int=2**128 - 1)) == datetime(9999, 12, 31, tzinfo=UTC)
    assert id_milliseconds(UUID(int=2**128 - 1)) == 2**48 - 1


def test_minted_ids_are_uuid7_of_now_and_sort_by_time() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    ids = [new_id() for _ in range(1000)]
    assert {made.version for made in ids} == {7}
    assert ids == sorted(ids)
    assert before <= id_time(ids[0]) <= datetime.now(UTC)


def test_derived_ids_are_the_same_everywhere() -> None:
    assert derived_id("session", 2) == UUID("120300e7-6ab1-5cfa-8e3c-943858b93d4b")
    assert derived_id("session", 2) != derived_id("session", 3)
