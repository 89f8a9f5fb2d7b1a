"""What records of results and control tell a dispatcher: which sessions need no call."""

from datetime import timedelta
from uuid import UUID

import pytest
from aiokafka.structs import ConsumerRecord

from services.contracts import AttemptOutcome, Event, WebhookFailed, WebhookSucceeded, encode
from services.contracts.admission import MAX_REPLY_BYTES
from services.contracts.codec import Headers
from services.contracts.events import Identity, SessionEvent
from services.runtime.records import RawRecord
from services.webhook_dispatcher.catch_up import cancel_request, ended_session
from services.webhook_dispatcher.results import SOURCE as DISPATCHER
from tests.unit.events import NOW, SESSION_ID, SOURCE, attempted, cancel_requested, failed, one_of_each, succeeded


def record(event: Event) -> RawRecord:
    topic, value, _, headers = encode(event, source=SOURCE)
    return raw(topic, value, headers)


def identity(event: SessionEvent) -> Identity:
    return event.conversation_id, event.persona_id, event.user_id


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


def test_what_ends_a_session_or_accepts_it_says_whose() -> None:
    accepted = attempted(outcome=AttemptOutcome.ACCEPTED, failure_kind=None)
    for event in (succeeded(), failed(), accepted):
        assert ended_session(record(event), NOW) == (SESSION_ID, identity(event))
    for event in (attempted(), attempted(error_message='It said "accepted".')):
        assert ended_session(record(event), NOW) is None


def test_of_a_dispatchers_own_results_the_headers_are_enough() -> None:
    topic, _, _, headers = encode(succeeded(), source=DISPATCHER)
    assert ended_session(raw(topic, None, headers), NOW) == (SESSION_ID, None)


@pytest.mark.parametrize("event", [succeeded(), failed()])
def test_the_body_says_whose_result_it_is_where_the_headers_do_not(event: WebhookSucceeded | WebhookFailed) -> None:
    topic, value, _, headers = encode(event, source=SOURCE)
    type_alone = [(name, text) for name, text in headers if name == "ce_type"]
    assert ended_session(raw(topic, value, type_alone), NOW) == (SESSION_ID, identity(event))


def test_a_result_that_the_tracker_refuses_ends_nothing() -> None:
    topic, _, _, headers = encode(succeeded(), source=SOURCE)
    assert ended_session(raw(topic, b"{}", headers), NOW) is None
    assert ended_session(record(succeeded(reply="x" * (MAX_REPLY_BYTES + 1))), NOW) is None


@pytest.mark.parametrize("subject", [None, b"", b"\xff", b"session-1"])
def test_a_result_that_does_not_say_whose_it_is_tells_nothing(subject: bytes | None) -> None:
    ce_type = ("ce_type", WebhookSucceeded.ce_type.encode())
    for headers in ([ce_type], [ce_type, ("ce_subject", subject)]):
        assert ended_session(raw("chat.results.v1", b"{}", headers), NOW) is None


def test_a_cancel_counts_only_if_the_tracker_takes_it_too() -> None:
    request = cancel_requested()
    assert cancel_request(record(request), NOW) == request
    ahead = cancel_requested(occurred_at=NOW + timedelta(hours=1))
    of_no_session = cancel_requested(session_id=UUID(int=7))
    for event in (ahead, of_no_session, *(event for event in one_of_each() if event != request)):
        assert cancel_request(record(event), NOW) is None
