"""What records of results and control tell a dispatcher: which sessions need no call."""

from datetime import timedelta
from uuid import UUID

import pytest
from aiokafka.structs import ConsumerRecord

from services.contracts import AttemptOutcome, Event, WebhookSucceeded, encode
from services.contracts.codec import Headers
from services.runtime.consumer import RawRecord
from services.webhook_dispatcher.catch_up import cancel_request, ended_session
from tests.unit.events import NOW, SESSION_ID, SOURCE, attempted, cancel_requested, failed, one_of_each, succeeded


def record(event: Event) -> RawRecord:
    topic, value, _, headers = encode(event, source=SOURCE)
    return raw(topic, value, headers)


def raw(topic: str, value: bytes | None, headers: Headers) -> RawRecord:
    return ConsumerRecord(
        topic=topic,
        partition=0,
        offset=0,
        timestamp=0,
        timestamp_type=0,
        key=b"conversation-1",
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(headers),
    )


def test_what_ends_a_session_or_accepts_it_says_which() -> None:
    accepted = attempted(outcome=AttemptOutcome.ACCEPTED, failure_kind=None)
    for event in (succeeded(), failed(), accepted):
        assert ended_session(record(event)) == SESSION_ID
    for event in (attempted(), attempted(error_message='It said "accepted".')):
        assert ended_session(record(event)) is None


@pytest.mark.parametrize("event", [succeeded(), failed()])
def test_the_body_says_whose_result_it_is_where_the_headers_do_not(event: Event) -> None:
    topic, value, _, headers = encode(event, source=SOURCE)
    type_alone = [(name, text) for name, text in headers if name == "ce_type"]
    assert ended_session(raw(topic, value, type_alone)) == SESSION_ID


@pytest.mark.parametrize("subject", [None, b"", b"\xff", b"session-1"])
def test_a_result_that_does_not_say_whose_it_is_tells_nothing(subject: bytes | None) -> None:
    ce_type = ("ce_type", WebhookSucceeded.ce_type.encode())
    for headers in ([ce_type], [ce_type, ("ce_subject", subject)]):
        assert ended_session(raw("chat.results.v1", b"{}", headers)) is None


def test_a_cancel_counts_only_if_the_tracker_takes_it_too() -> None:
    request = cancel_requested()
    assert cancel_request(record(request), NOW) == request
    ahead = cancel_requested(occurred_at=NOW + timedelta(hours=1))
    of_no_session = cancel_requested(session_id=UUID(int=7))
    for event in (ahead, of_no_session, *(event for event in one_of_each() if event != request)):
        assert cancel_request(record(event), NOW) is None
