"""The one sentence of `chat-sessions doctor SESSION`: facts in, sentence out, for everything that can have happened."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aiokafka.structs import ConsumerRecord

from services.commands.diagnosis.causes import CAUSES
from services.commands.diagnosis.explain import explain
from services.commands.diagnosis.facts import Entry, Facts, FoundLetter, FoundRecord, Persona, Reader, Silence, Tracked
from services.commands.diagnosis.gather import windows
from services.commands.diagnosis.search import joined, matched
from services.commands.diagnosis.timeline import timeline_lines
from services.commands.diagnosis.told import document, lines
from services.contracts.codec import encode
from services.contracts.ids import new_id
from services.contracts.session import FailureKind, SessionStatus
from services.session_tracker.timeouts import REQUESTED_BY
from tests.sample_events import SessionEvents

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ID = UUID("01a20787-d5b4-7145-a21d-421431030f18")
EARLIER = UUID("01a20786-d5b4-7145-a21d-421431030f18")
MESSAGE = FoundRecord("chat.messages.v1", 3, 7, NOW, "MessageSent", "c", "f" * 32)
RESULT = FoundRecord("chat.results.v1", 3, 9, NOW, "WebhookSucceeded", "c")
LETTER = FoundLetter(
    "chat.messages.v1.session-tracker.dlq/4", "chat.messages.v1", "session-tracker", "malformed", "No.", True
)
DISPATCHERS = replace(LETTER, letter_id="d/1", group="webhook-dispatcher")
DROPPED = replace(LETTER, open=False, place=(3, 7), dropped_by="ann", because="It is test data.")
SILENT = Silence("dispatcher", "http://d answers nothing", "kill it")
AWAY = "it is down"
BEHIND, GONE, DONE = Reader(1, 5, 4), Reader(0, 5, 4), Reader(1, 8, 0)


def entry(kind: str, **more: object) -> Entry:
    return {"type": kind, "at": NOW.isoformat(), "late": False, **more}


def known(**more: Any) -> Facts:
    return Facts(**{"session_id": ID, "id_time": NOW, "now": NOW, **more})


def session(status: str, *, age: float = 600.0, **more: Any) -> Tracked:
    return Tracked("c", "support", SessionStatus(status), NOW - timedelta(seconds=age), **more)


def active(age: float = 600.0, **more: Any) -> Facts:
    given = {"records": [MESSAGE], "dispatcher": BEHIND, "tracker": BEHIND, "persona": Persona(False, 60.0)}
    return known(**{"tracked": session("ACTIVE", age=age), "timeline": [entry("MessageSent")], **given, **more})


def attempted(**more: object) -> list[Entry]:
    return [entry("MessageSent"), entry("WebhookAttempted", **more)]


SWEEP = entry("TimeoutSweep", maxAgeHours=24.0, requestedBy=REQUESTED_BY)
LATER, BEFORE = (NOW + timedelta(minutes=1)).isoformat(), (NOW - timedelta(minutes=1)).isoformat()
CASES: list[tuple[str, str, Facts]] = [
    ("completed", "persona support replied after 1.5 s at attempt 2; there is nothing to do.",
     known(tracked=session("COMPLETED", attempts=2, response_ms=1500))),
    ("failed", "failed at attempt 3 of persona support, timeout: n8n did not answer in time; look for its execution",
     known(tracked=session("FAILED", attempts=3, failure_kind="timeout"))),
    ("failed", "failed without a call of persona support, expired: ",
     known(tracked=session("FAILED", failure_kind="expired"))),
    ("timed-out", "ended by the scheduled sweep, because nothing had happened for 24 hours: no attempt was ever told",
     known(tracked=session("TIMEOUT"), timeline=[entry("MessageSent"), SWEEP])),
    ("timed-out", "by a sweep that root asked for, because nothing had happened for 1 hour: its last attempt stands",
     known(tracked=session("TIMEOUT"),
           timeline=[*attempted(), entry("TimeoutSweep", maxAgeHours=1.0, requestedBy="root")])),
    ("timed-out", "ended by a sweep, because nothing had happened for too long: ", known(tracked=session("TIMEOUT"))),
    ("cancelled", "was cancelled by ann at 2026-11-23 12:00:00 UTC: ",
     known(tracked=session("CANCELLED", ended_at=NOW), timeline=[entry("CancelRequested", requestedBy="ann")])),
    ("dead-lettered", "session-tracker and webhook-dispatcher could not use its record of chat.messages.v1, malformed: "
     "No; its publisher is to mend that, as docs/publishing.md says and send it again with a new session id; then run "
     "`chat-sessions dead-letters drop chat.messages.v1.session-tracker.dlq/4 d/1 --because WHY`: a replay would fail",
     known(letters=[LETTER, DISPATCHERS])),
    ("dead-lettered", "identity-mismatch: No; its publisher is to give each session an id of its own and send it again",
     known(letters=[replace(LETTER, reason="identity-mismatch")])),
    ("dead-lettered", "unknown-type: No; let all processes be of the release that knows it, then run `chat-sessions "
     "dead-letters replay d/1`, or drop", known(letters=[replace(DISPATCHERS, reason="unknown-type")])),
    ("dead-lettered", "of chat.results.v1, malformed: No; let all processes be of the release that knows it, then run",
     active(letters=[replace(LETTER, topic="chat.results.v1")])),
    ("dead-lettered", "refused-by-postgres: No; report it as a bug, and once PostgreSQL and the release are mended",
     known(letters=[replace(LETTER, reason="refused-by-postgres")])),
    ("letter-dropped", "had its message refused by session-tracker, malformed: No; ann dropped its dead letter because "
     "'It is test data', so nothing more will come of it.", known(letters=[DROPPED], records=[MESSAGE])),
    ("letter-dropped", "nothing more will come", known(
        letters=[replace(LETTER, open=False, place=(3, 7)), replace(DROPPED, place=(3, 11))],
        records=[MESSAGE, replace(MESSAGE, offset=11, for_group="session-tracker"),
                 replace(MESSAGE, offset=12, for_group="webhook-dispatcher")])),
    ("letter-dropped", "by session-tracker and webhook-dispatcher, malformed: No; ann dropped its dead letters b",
     known(letters=[DROPPED, replace(DROPPED, group="webhook-dispatcher")])),
    ("letter-dropped", "nobody will call its persona: cancel it,",
     active(letters=[replace(DROPPED, group="webhook-dispatcher")])),
    ("not-folded", "is not tracked yet", known(letters=[DROPPED], records=[MESSAGE, replace(MESSAGE, offset=8)])),
    ("dead-lettered", "is stuck: ", active(letters=[LETTER])),
    ("no-dispatcher", "was never dispatched: no dispatcher runs, and 4 messages of its partition wait, 2 of them "
     "before it; start a dispatcher.", active(dispatcher=GONE)),
    ("dispatcher-behind", "was not dispatched for 10 min: the dispatcher is 4 records behind in its partition, 2 "
     "records of its partition before it; see the dispatcher's health", active()),
    ("paused", "waits because persona support is paused: resume it", active(persona=Persona(True, 60.0))),
    ("waits-in-conversation", f"for session {EARLIER} to end: ask `chat-sessions doctor {EARLIER}`.",
     active(waits_behind=EARLIER)),
    ("running", "is being worked on since 3.0 s: its call may take 60 s with its retries", active(age=3.0)),
    ("dispatcher-silent", "not finished for 3.0 s, and the dispatcher at http://d answers nothing; kill it.",
     active(age=3.0, silent=[SILENT])),
    ("dispatcher-silent", "; kill it.", active(timeline=attempted(attempt=1, outcome="failed", retryAt=LATER),
                                               silent=[SILENT])),
    ("waits-for-callback", "", active(timeline=attempted(outcome="accepted", deadlineAt=LATER), silent=[SILENT])),
    ("paused", "", active(persona=Persona(True, 60.0), silent=[SILENT])),
    ("waits-for-retry", "after attempt 1 failed (timeout), due at 2026-11-23 12:01:00 UTC: there is nothing to do",
     active(timeline=attempted(attempt=1, outcome="failed", failureKind="timeout", retryAt=LATER))),
    ("retry-overdue", "which was due at 2026-11-23 11:59:00 UTC, and no dispatcher runs, which leaves 4 records of its "
     "partition waiting; start a dispatcher.",
     active(timeline=attempted(attempt=1, outcome="failed", failureKind="timeout", retryAt=BEFORE), dispatcher=GONE)),
    ("waits-for-callback", "has not posted its reply and may until 2026-11-23 12:01:00 UTC: see its execution",
     active(timeline=attempted(outcome="accepted", deadlineAt=LATER))),
    ("callback-overdue", "has not posted its reply until 2026-11-23 11:59:00 UTC, and the tracker is 4 records behind",
     active(timeline=attempted(outcome="accepted", deadlineAt=BEFORE))),
    ("result-not-folded", "has its WebhookSucceeded in Kafka (chat.results.v1 partition 3 offset 9) since 2026-11-23 "
     "12:00:00 UTC, and no tracker runs, which leaves 4 records of its partition waiting; start a tracker.",
     active(records=[MESSAGE, RESULT], tracker=GONE)),
    ("lost", "Kafka has its message no longer, so that nobody will call persona support for it: run `chat-sessions "
     "recover`", active(records=[])),
    ("result-lost", "was finished by a dispatcher, and its result is neither folded nor in Kafka",
     active(dispatcher=DONE)),
    ("kafka-away", "is ACTIVE without an attempt, and Kafka cannot be asked why (it is down)",
     active(records=[], dispatcher=None, kafka_away=AWAY, searched_all=False)),
    ("not-folded", "Kafka has its message (chat.messages.v1 partition 3 offset 7), and the tracker is 4 records behind",
     known(records=[MESSAGE], tracker=BEHIND)),
    ("lost", "was accepted at 2026-11-23 12:00:00 UTC, and Kafka has lost its message before it was tracked",
     known(acknowledged_at=NOW, asked=True)),
    ("not-acknowledged", "Kafka never acknowledged its message: the same request with its Idempotency-Key",
     known(asked=True)),
    ("dropped", "was dropped by retention with its whole month", known(month_dropped=True)),
    ("postgres-away", "does not answer (it is down); Kafka has 1 record of it: start PostgreSQL.",
     known(postgres_away=AWAY, records=[MESSAGE])),
    ("kafka-away", "is in no row, and Kafka cannot be asked for its message (it is down)", known(kafka_away=AWAY)),
    ("unknown", "no row, record or dead letter names it, so its POST was refused or never made; check the id.",
     known()),
    ("unknown", "no row or dead letter names it, nor any of the records", known(searched_all=False)),
    ("unknown", "Kafka keeps messages for 7 days", known(id_time=NOW - timedelta(days=8))),
    ("unknown", "which is still to come", known(id_time=NOW + timedelta(days=1))),
    ("unknown", "the id is no UUIDv7", known(id_time=None)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "told", "facts"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_what_happened_is_one_sentence(code: str, told: str, facts: Facts) -> None:
    verdict = explain(facts)
    assert (verdict.code, told in verdict.sentence) == (code, True), verdict.sentence
    assert str(ID) in verdict.sentence
    assert verdict.sentence.endswith(".")
    assert ". " not in verdict.sentence
    assert (
        json.loads(json.dumps(document(facts, verdict)))["sentence"] == next(lines(facts, verdict)) == verdict.sentence
    )


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_has_a_cause_of_its_own(kind: FailureKind) -> None:
    sentence = explain(known(tracked=session("FAILED", attempts=1, failure_kind=kind.value))).sentence
    assert all(part in sentence for part in CAUSES[kind])
    assert [other for other in CAUSES.values() if other == CAUSES[kind]] == [CAUSES[kind]]


def test_a_document_has_its_times_as_all_json_of_this_system() -> None:
    facts = known(records=[MESSAGE])
    assert "2026-11-23T12:00:00Z" in json.dumps(document(facts, explain(facts)))


def test_a_fresh_session_is_not_called_lost_before_kafka_can_tell_of_it() -> None:
    assert explain(active(age=3.0, records=[])).code == "running"


def test_a_letter_that_is_done_with_explains_nothing() -> None:
    assert explain(known(letters=[replace(LETTER, open=False)])).code == "unknown"


def test_foreign_text_does_nothing_to_a_terminal() -> None:
    told = explain(known(letters=[replace(LETTER, error="\x1b[31m" + "x" * 300)])).sentence
    assert told.isprintable()
    assert "x…;" in told


def test_records_are_looked_for_around_events_and_where_nothing_is_folded_yet() -> None:
    minute = timedelta(minutes=1)
    old = replace(active(), timeline=[{"at": (NOW - 60 * minute).isoformat()}])
    assert joined(windows(old, NOW - 60 * minute, NOW - minute)) == [
        (NOW - 61 * minute, NOW - 58 * minute),
        (NOW - 2 * minute, NOW + 2 * minute),
    ]
    assert joined(windows(old, NOW - 60 * minute, None)) == [(NOW - 61 * minute, NOW + 2 * minute)]


def record(headers: Mapping[str, bytes], value: bytes, topic: str = "chat.messages.v1") -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(topic, 3, 7, 0, 0, b"c", value, None, 0, 0, tuple(headers.items()))


def test_an_event_is_the_session_s_own_not_one_that_names_it() -> None:
    sent = SessionEvents().sent()
    told = encode(sent, source="/x", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    whole = record(dict(told.headers), told.value)
    found = matched(whole, sent.session_id)
    assert found is not None
    assert (found.type, found.trace_id, found.conversation_id) == ("MessageSent", "a" * 32, sent.conversation_id)
    resumed = encode(SessionEvents().sent(resumed_from=sent.session_id), source="/x")
    assert matched(record(dict(resumed.headers), resumed.value), sent.session_id) is None
    assert matched(record({"ce_subject": str(sent.session_id).encode()}, b"{"), sent.session_id) is None
    assert matched(whole, new_id()) is None


def test_a_timeline_leaves_out_what_goes_without_saying() -> None:
    first, next_day = "2026-01-31T23:59:59.999999Z", "2026-02-01T00:00:01Z"
    timeline: list[Entry] = [
        {"type": "MessageSent", "at": first, "late": False},
        {"type": "WebhookAttempted", "at": first, "late": False, "errorMessage": "once", "retryAt": next_day},
        {"type": "WebhookFailed", "at": next_day, "late": False, "errorMessage": "It failed so."},
        {"type": "WebhookFailed", "at": next_day, "late": True, "errorMessage": "once"},
        {"type": "TimeoutSweep", "at": next_day, "asOf": next_day, "dryRun": False, "late": True, "sweepId": "x"},
    ]
    assert timeline_lines(timeline, "It failed so.") == [
        "  2026-01-31 23:59:59.999  MessageSent",
        "             23:59:59.999  WebhookAttempted  errorMessage=once  retryAt=00:00:01.000",
        "  2026-02-01 00:00:01.000  WebhookFailed",
        "             00:00:01.000  WebhookFailed  late",
        "             00:00:01.000  TimeoutSweep  late  sweepId=x",
    ]
