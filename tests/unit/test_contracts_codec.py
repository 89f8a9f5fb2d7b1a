"""The codec: the format stands still, every event survives it, and nothing but UndecodableRecord comes out of it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import Event, MessageSent, SessionChanged, UndecodableRecord, decode, encode, new_id
from services.contracts.codec import header
from services.contracts.events import EVENT_CLASSES
from services.contracts.topics import CONTROL, DELTAS, MESSAGES, RESULTS, SESSIONS, SWEEPS, TOPICS
from tests.unit.events import SOURCE, TRACEPARENT, message_sent, one_of_each, session_changed

GOLDEN = Path(__file__).parent / "golden"
TYPE = ("ce_type", b"chat.MessageSent.v1")

each_event = pytest.mark.parametrize("event", one_of_each(), ids=lambda event: type(event).__name__)

# Every character but lone surrogates, which no UTF-8 carries.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def reason_of(topic: str, headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> str:
    with pytest.raises(UndecodableRecord) as refused:
        decode(topic, headers, value)
    assert refused.value.explanation == str(refused.value)
    return refused.value.reason


def read_golden(event: Event, folder: Path) -> Any:
    """The golden record of the event's class, once it has been read as the event."""
    golden = json.loads((folder / f"{type(event).__name__}.json").read_text())
    headers = [(name, value.encode()) for name, value in golden["headers"]]
    assert decode(golden["topic"], headers, golden["value"].encode()) == event
    return golden


def body(**changes: object) -> bytes:
    fields = json.loads(encode(message_sent(), source=SOURCE).value)
    return json.dumps(fields | changes).encode()


def test_there_is_one_example_of_every_event() -> None:
    assert tuple(type(event) for event in one_of_each()) == EVENT_CLASSES


@each_event
def test_the_format_is_the_golden_one_byte_for_byte_and_is_read_as_the_event(event: Event) -> None:
    golden = read_golden(event, GOLDEN)
    record = encode(event, source=SOURCE, traceparent=TRACEPARENT)
    assert record.topic == golden["topic"]
    assert record.key.decode() == golden["key"]
    assert [[name, value.decode()] for name, value in record.headers] == golden["headers"]
    assert record.value.decode() == golden["value"]


@pytest.mark.parametrize(
    "event",
    [message_sent(template_version=None, call_policy=None), session_changed(template_version=None, trace_id=None)],
    ids=lambda event: type(event).__name__,
)
def test_a_record_from_before_a_field_was_added_is_read_without_it(event: Event) -> None:
    golden = read_golden(event, GOLDEN / "1.0")
    assert encode(event, source=SOURCE).value.decode() == golden["value"]


@each_event
def test_an_event_survives_the_codec(event: Event) -> None:
    record = encode(event, source=SOURCE)
    assert decode(record.topic, record.headers, record.value) == event
    assert header(record.headers, "traceparent") is None


@each_event
def test_names_on_the_wire_are_camel_case_and_nothing_is_null(event: Event) -> None:
    fields = json.loads(encode(event, source=SOURCE).value)
    assert not [name for name in fields if "_" in name or not name[0].islower()]
    assert None not in fields.values()


@each_event
def test_unknown_fields_and_headers_are_ignored(event: Event) -> None:
    record = encode(event, source=SOURCE)
    grown = json.dumps(json.loads(record.value) | {"addedLater": {"deep": [1]}}).encode()
    assert decode(record.topic, [*record.headers, ("addedLater", None)], grown) == event


@pytest.mark.parametrize(
    "absent", [name for name, field in SessionChanged.model_fields.items() if field.default is None]
)
def test_a_session_without_an_optional_field_survives_the_codec(absent: str) -> None:
    event = session_changed(**{"previous_status": None, absent: None})
    record = encode(event, source=SOURCE)
    assert decode(record.topic, record.headers, record.value) == event


def test_every_event_goes_to_its_topic_under_its_key() -> None:
    routes = {type(e).__name__: encode(e, source=SOURCE)[0::2] for e in one_of_each()}
    sweep = str(one_of_each()[6].event_id).encode()
    assert routes == {
        "MessageSent": (MESSAGES.name, b"conversation-1"),
        "WebhookAttempted": (RESULTS.name, b"conversation-1"),
        "WebhookSucceeded": (RESULTS.name, b"conversation-1"),
        "WebhookFailed": (RESULTS.name, b"conversation-1"),
        "CancelRequested": (CONTROL.name, b"conversation-1"),
        "ErasureRequested": (CONTROL.name, b"conversation-1"),
        "TimeoutSweep": (SWEEPS.name, sweep),
        "SessionChanged": (SESSIONS.name, b"conversation-1"),
        "ReplyDelta": (DELTAS.name, b"conversation-1"),
    }


@pytest.mark.parametrize(
    ("reason", "topic", "headers", "value"),
    [
        ("no-type", MESSAGES.name, [], b"{}"),
        ("no-type", MESSAGES.name, [("ce_type", None)], b"{}"),
        ("no-type", MESSAGES.name, [("ce_type", b"\xff\xfe")], b"{}"),
        ("no-type", MESSAGES.name, [("CE_TYPE", b"chat.MessageSent.v1")], b"{}"),
        ("unknown-type", MESSAGES.name, [("ce_type", b"")], b"{}"),
        ("unknown-type", MESSAGES.name, [("ce_type", b"chat.MessageSent.v2")], b"{}"),
        ("unknown-type", MESSAGES.name, [("ce_type", b"chat.MessageLost.v1")], b"{}"),
        ("unknown-type", MESSAGES.name, [("ce_type", b"x" * 100_000)], b"{}"),
        ("wrong-topic", RESULTS.name, [TYPE], body()),
        ("wrong-topic", "another", [TYPE], body()),
        ("no-body", MESSAGES.name, [TYPE], None),
        ("malformed", MESSAGES.name, [TYPE], b""),
        ("malformed", MESSAGES.name, [TYPE], b"{"),
        ("malformed", MESSAGES.name, [TYPE], b"\xff\xfe"),
        ("malformed", MESSAGES.name, [TYPE], b"\xef\xbb\xbf" + body()),
        ("malformed", MESSAGES.name, [TYPE], b"null"),
        ("malformed", MESSAGES.name, [TYPE], b"[]"),
        ("malformed", MESSAGES.name, [TYPE], b'"text"'),
        ("malformed", MESSAGES.name, [TYPE], b"{}"),
        ("malformed", MESSAGES.name, [TYPE], body() + b"x"),
        ("malformed", MESSAGES.name, [TYPE], b"[" * 100_000),
        ("malformed", MESSAGES.name, [TYPE], body(metadata={"a": 0}).replace(b'"a": 0', b'"a": ' + b"9" * 5000)),
    ],
)
def test_every_undecodable_record_has_its_reason(
    reason: str, topic: str, headers: list[tuple[str, bytes | None]], value: bytes | None
) -> None:
    assert reason_of(topic, headers, value) == reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"message": 5},
        {"message": None},
        {"message": ["x"]},
        {"metadata": "x"},
        {"metadata": None},
        {"metadata": []},
        {"sessionId": "no id"},
        {"sessionId": 7},
        {"sessionId": "{019a14c5-1c00-7abc-8def-0123456789ab"},
        {"conversationId": 7},
        {"userId": None},
        {"occurredAt": "2026-11-22T10:00:00"},
        {"occurredAt": "yesterday"},
        {"occurredAt": 1790000000},
        {"occurredAt": "2026-13-01T00:00:00Z"},
        {"resumedFrom": "x"},
    ],
    ids=str,
)
def test_a_body_of_wrong_types_is_malformed(wrong: dict[str, object]) -> None:
    assert reason_of(MESSAGES.name, [TYPE], body(**wrong)) == "malformed"


@pytest.mark.parametrize(
    ("event_type", "topic", "wrong"),
    [
        ("WebhookFailed", RESULTS, {"failureKind": "bored"}),
        ("WebhookFailed", RESULTS, {"failureKind": None}),
        ("WebhookFailed", RESULTS, {"attempt": 0}),
        ("WebhookFailed", RESULTS, {"attempt": 10_001}),
        ("WebhookFailed", RESULTS, {"attempt": "1"}),
        ("WebhookFailed", RESULTS, {"attempt": True}),
        ("WebhookFailed", RESULTS, {"durationMs": -1}),
        ("WebhookFailed", RESULTS, {"durationMs": 2**53}),
        ("WebhookFailed", RESULTS, {"durationMs": 1.5}),
        ("WebhookSucceeded", RESULTS, {"statusCode": 99}),
        ("WebhookSucceeded", RESULTS, {"statusCode": 1000}),
        ("WebhookSucceeded", RESULTS, {"reply": {"text": "x"}}),
        ("WebhookAttempted", RESULTS, {"outcome": "won"}),
        ("WebhookAttempted", RESULTS, {"retryAt": "2026-11-22T10:00:00"}),
        ("TimeoutSweep", SWEEPS, {"maxAgeHours": 0}),
        ("TimeoutSweep", SWEEPS, {"maxAgeHours": 24 * 366 * 100 + 1}),
        ("TimeoutSweep", SWEEPS, {"maxAgeHours": float("nan")}),
        ("TimeoutSweep", SWEEPS, {"dryRun": "yes"}),
        ("SessionChanged", SESSIONS, {"status": "DONE"}),
        ("ReplyDelta", DELTAS, {"index": -1}),
    ],
)
def test_bounds_of_other_events_are_held(event_type: str, topic: object, wrong: dict[str, object]) -> None:
    event = next(event for event in one_of_each() if type(event).__name__ == event_type)
    record = encode(event, source=SOURCE)
    broken = json.dumps(json.loads(record.value) | wrong).encode()
    assert reason_of(record.topic, record.headers, broken) == "malformed"


def test_the_explanation_names_fields_and_never_values() -> None:
    with pytest.raises(UndecodableRecord) as refused:
        decode(MESSAGES.name, [TYPE], body(message=["a secret"], userId={"a": "secret"}))
    assert "message" in refused.value.explanation
    assert "userId" in refused.value.explanation
    assert "secret" not in refused.value.explanation


def test_only_the_first_problems_are_told() -> None:
    with pytest.raises(UndecodableRecord) as refused:
        decode(MESSAGES.name, [TYPE], b"{}")
    assert "and 2 more" in refused.value.explanation


@given(
    topic=st.sampled_from([topic.name for topic in TOPICS]) | st.text(max_size=10),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["ce_type", "ce_id", ""]),
            st.none() | st.binary(max_size=30) | st.sampled_from([c.ce_type.encode() for c in EVENT_CLASSES]),
        ),
        max_size=4,
    ),
    value=st.none() | st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_decoding_anything_raises_nothing_else(
    topic: str, headers: list[tuple[str, bytes | None]], value: bytes | None
) -> None:
    with pytest.raises(UndecodableRecord) as refused:
        decode(topic, headers, value)
    refused.value.explanation.encode()


@given(
    st.sampled_from(one_of_each()),
    st.dictionaries(st.sampled_from([name for c in EVENT_CLASSES for name in c.model_fields]), json_values, max_size=4),
)
def test_decoding_a_damaged_event_raises_nothing_else(event: Event, damage: dict[str, object]) -> None:
    record = encode(event, source=SOURCE)
    aliases = {name: field.alias or name for name, field in type(event).model_fields.items()}
    fields = json.loads(record.value) | {aliases.get(name, name): value for name, value in damage.items()}
    try:
        read = decode(record.topic, record.headers, json.dumps(fields).encode())
    except UndecodableRecord as refused:
        refused.explanation.encode()
    else:
        assert type(read) is type(event)


@given(
    message=texts,
    ids=st.tuples(texts, texts, texts),
    metadata=st.dictionaries(texts, json_values, max_size=4),
    occurred_at=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
    session_id=st.uuids() | st.builds(new_id),
)
def test_any_message_survives_the_codec(
    message: str, ids: tuple[str, str, str], metadata: dict[str, object], occurred_at: datetime, session_id: object
) -> None:
    conversation_id, persona_id, user_id = ids
    event = message_sent(
        message=message,
        conversation_id=conversation_id,
        persona_id=persona_id,
        user_id=user_id,
        metadata=metadata,
        occurred_at=occurred_at,
        session_id=session_id,
    )
    record = encode(event, source=SOURCE)
    assert decode(record.topic, record.headers, record.value) == event


def test_events_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        message_sent().message = "another"  # type: ignore[misc]
    assert isinstance(message_sent(), MessageSent)
