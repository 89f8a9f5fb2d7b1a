"""Bad records beside good ones: the good are applied, the bad are kept byte for byte with the reason, nothing else."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from services.contracts import Event, encode
from services.contracts.events import SessionEvent, TrackedEvent
from services.contracts.topics import CONTROL, MESSAGES, RESULTS, SWEEPS, SWEEPS_GROUP, TRACKER_GROUP, dead_letter_topic
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.runtime.records import RawRecord
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from tests.integration.kafka_log import Sent, read_all, send
from tests.integration.tracker_process import SOURCE, connected, publish_events, tracker, until, until_value
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents, sweep

NOW = datetime.now(UTC)
DROPPED = datetime(2024, 3, 1, tzinfo=UTC)


class Bad(NamedTuple):
    record: Sent
    reason: str


def record(event: Event) -> Sent:
    _, value, key, headers = encode(event, source=SOURCE)
    return Sent(value, key, headers)


def with_body(event: Event, **changes: Any) -> Sent:
    sent = record(event)
    assert sent.value is not None
    return sent._replace(value=json.dumps({**json.loads(sent.value), **changes}).encode())


def typed(event: Event, ce_type: bytes | None) -> Sent:
    sent = record(event)
    return sent._replace(headers=[(name, ce_type if name == "ce_type" else value) for name, value in sent.headers])


def replaced(event: Event, old: bytes, new: bytes) -> Sent:
    sent = record(event)
    assert sent.value is not None
    assert old in sent.value
    return sent._replace(value=sent.value.replace(old, new))


def broken_in_form(event: Event) -> list[Bad]:
    """Records that carry no event."""
    whole = record(event)
    assert whole.value is not None
    name = event.ce_type.encode()
    return [
        Bad(whole._replace(value=whole.value[:-7]), "malformed"),
        Bad(whole._replace(value=b"[1, 2]"), "malformed"),
        Bad(whole._replace(value=b""), "malformed"),
        Bad(with_body(event, eventId=17), "malformed"),
        Bad(with_body(event, occurredAt="yesterday"), "malformed"),
        Bad(whole._replace(value=None), "no-body"),
        Bad(whole._replace(headers=[]), "no-type"),
        Bad(typed(event, None), "no-type"),
        Bad(whole._replace(headers=[("ce_type", b"\xff\xfe"), ("other", None)]), "no-type"),
        Bad(typed(event, b"chat.MessageEdited.v1"), "unknown-type"),
        Bad(typed(event, name.replace(b".v1", b".v2")), "unknown-type"),
        Bad(typed(event, b"chat.SessionChanged.v1"), "wrong-topic"),
        Bad(with_body(event, occurredAt=(NOW + timedelta(hours=1)).isoformat()), "time-ahead"),
    ]


def broken_in_text(event: Event, text: bytes, field: str, limit: int) -> list[Bad]:
    """Records whose `field`, that holds `text`, is too long or cannot be stored."""
    return [
        Bad(with_body(event, **{field: "x" * (limit + 1)}), "too-large"),
        Bad(replaced(event, text, rb"a\u0000b"), "characters"),
        Bad(replaced(event, text, rb"a\ud800b"), "malformed"),
        Bad(replaced(event, text, b"a\xed\xa0\x80b"), "malformed"),
        Bad(replaced(event, text, b"a\xff\xfeb"), "malformed"),
    ]


def broken_in_name(event: SessionEvent, victim: SessionEvent) -> list[Bad]:
    """Records of sessions that cannot be, or are another user's."""

    def of(session_id: UUID) -> Sent:
        return record(event.model_copy(update={"session_id": session_id}))

    return [
        Bad(of(v7_at(NOW + timedelta(days=1))), "session-id-ahead"),
        Bad(of(v7_at(datetime(2019, 1, 1, tzinfo=UTC))), "session-id-past"),
        Bad(of(v7_at(DROPPED + timedelta(days=9))), "dropped-month"),
        Bad(of(v7_at(DROPPED - timedelta(days=9))), "dropped-month"),
        Bad(of(uuid4()), "session-id"),
        Bad(of(victim.session_id), "identity-mismatch"),
        Bad(with_body(event, conversationId="c" * 129), "id-size"),
        Bad(with_body(event, userId=""), "id-size"),
    ]


def v7_at(moment: datetime) -> UUID:
    return UUID(int=id_at(moment).int | 0x7 << 76 | 0x8 << 60 | 5)


async def letters_of(bootstrap: str, topic: str, count: int, group: str = TRACKER_GROUP) -> list[tuple[Sent, str]]:
    """The records that a topic's dead letters hold, with their reasons, once there are so many."""
    found: list[RawRecord] = []

    async def enough() -> bool:
        nonlocal found
        found = await read_all(bootstrap, dead_letter_topic(topic, group).name)
        return len(found) >= count

    await until(enough, f"{count} dead letters of {topic} were written")
    log = {(record.partition, record.offset): record for record in await read_all(bootstrap, topic)}
    return [told(letter, log, group) for letter in found]


def told(letter: RawRecord, log: Mapping[tuple[int, int], RawRecord], group: str) -> tuple[Sent, str]:
    why = {name: (value or b"").decode() for name, value in letter.headers if name.startswith("dlq-")}
    origin = log[int(why["dlq-partition"]), int(why["dlq-offset"])]
    own = letter.headers[: len(origin.headers)]
    assert (letter.key, letter.value, own) == (origin.key, origin.value, origin.headers)
    assert (why["dlq-topic"], why["dlq-group"]) == (origin.topic, group)
    assert why["dlq-error"].endswith(".") or why["dlq-reason"] == "malformed"
    return Sent(letter.value, letter.key, own), why["dlq-reason"]


def expected(bad: Sequence[Bad]) -> list[tuple[Sent, str]]:
    return [(one.record._replace(headers=tuple(one.record.headers)), one.reason) for one in bad]


def mixed(bad: Sequence[Bad], good: Sequence[Event]) -> list[Sent]:
    """Good and bad records in turn."""
    records = [one.record for one in bad]
    for place, event in enumerate(good):
        records.insert(place * (len(records) // len(good)), record(event))
    return records


async def known(database_url: str, event: TrackedEvent) -> None:
    """Make the session known, and drop a month."""
    engine = build_engine(database_url)
    try:
        await Months(engine).ensure(event.session_id)
        await SessionStore(engine).fold([Arrival(event, event.occurred_at, 0, 0)], {})
    finally:
        await engine.dispose()
    async with connected(database_url) as rows:
        await rows.execute("INSERT INTO dropped_months (month) VALUES ($1)", DROPPED)


async def test_bad_records_on_every_topic_leave_their_neighbours_alone(bootstrap: str, postgres_url: str) -> None:
    victim = SessionEvents(conversation="theirs", user="victim").sent("private")
    await known(postgres_url, victim)
    events = SessionEvents(conversation="c1")
    message, reply, cancel = events.sent("TEXT"), events.succeeded("TEXT"), events.cancelled()
    bad = {
        MESSAGES.name: [
            *broken_in_form(message),
            *broken_in_text(message, b"TEXT", "message", 32 * 1024),
            *broken_in_name(message, victim),
            Bad(with_body(message, metadata={"k": "x" * 8192}), "too-large"),
            Bad(replaced(message, b'"userAgent":"tests"', rb'"user\u0000Agent":"tests"'), "characters"),
        ],
        RESULTS.name: [
            *broken_in_form(reply),
            *broken_in_text(reply, b"TEXT", "reply", 256 * 1024),
            *broken_in_name(reply, victim),
            Bad(with_body(reply, attempt="one"), "malformed"),
            Bad(with_body(reply, statusCode=None), "malformed"),
        ],
        CONTROL.name: [
            *broken_in_form(cancel),
            *broken_in_text(cancel, b"changed my mind", "reason", 2048),
            *broken_in_name(cancel, victim),
        ],
    }
    sessions = [SessionEvents(conversation="c1") for _ in range(15)]
    good: dict[str, Sequence[Event]] = {
        MESSAGES.name: [s.sent("fine") for s in sessions],
        RESULTS.name: [s.succeeded("fine too") for s in sessions[:5]],
        CONTROL.name: [s.cancelled() for s in sessions[5:10]],
    }
    for topic, records in bad.items():
        await send(bootstrap, topic, mixed(records, good[topic]))
    async with tracker(bootstrap, postgres_url) as running:
        await until_value(postgres_url, "SELECT count(*) FROM session_events", 26)
        for topic, records in bad.items():
            letters = await letters_of(bootstrap, topic, len(records))
            assert sorted(letters, key=repr) == sorted(expected(records), key=repr)
        await running.until_ready()
    async with connected(postgres_url) as rows:
        statuses = await rows.fetch('SELECT status, count(*) FROM chat_sessions WHERE "userId" = $1 GROUP BY 1', "u1")
        theirs = await rows.fetchrow('SELECT status, version FROM chat_sessions WHERE "userId" = $1', "victim")
    assert dict(map(tuple, statuses)) == {"COMPLETED": 5, "CANCELLED": 5, "ACTIVE": 5}
    assert tuple(theirs) == ("ACTIVE", 1)
    await assert_rollups_exact(postgres_url)


async def test_bad_sweeps_do_not_hold_up_good_ones(bootstrap: str, postgres_url: str) -> None:
    one = sweep()
    bad = [
        *broken_in_form(one),
        Bad(replaced(one, b"admin", rb"a\u0000b"), "characters"),
        Bad(replaced(one, b"admin", rb"a\ud800b"), "malformed"),
        Bad(replaced(one, b"admin", b"a\xff\xfeb"), "malformed"),
        Bad(with_body(one, requestedBy="x" * 2049), "too-large"),
        Bad(with_body(one, dryRun="yes"), "malformed"),
        Bad(with_body(one, maxAgeHours=-1), "malformed"),
        Bad(with_body(one, asOf=(NOW + timedelta(days=1)).isoformat()), "time-ahead"),
    ]
    good = [sweep(), sweep(dry_run=True), sweep()]
    await send(bootstrap, SWEEPS.name, mixed(bad, good))
    async with tracker(bootstrap, postgres_url):
        await until_value(postgres_url, 'SELECT count(*) FROM sweeps WHERE "finishedAt" IS NOT NULL', len(good))
        letters = await letters_of(bootstrap, SWEEPS.name, len(bad), SWEEPS_GROUP)
        assert sorted(letters, key=repr) == sorted(expected(bad), key=repr)
    async with connected(postgres_url) as rows:
        assert {row["sweepId"] for row in await rows.fetch("SELECT * FROM sweeps")} == {s.sweep_id for s in good}


async def test_an_event_that_postgres_refuses_is_found_among_200(bootstrap: str, postgres_url: str) -> None:
    async with connected(postgres_url) as rows:
        await rows.execute("ALTER TABLE messages ADD CONSTRAINT no_poison CHECK (content <> 'poison')")
    sessions = [SessionEvents(conversation=f"c{n % 9}", user=f"u{n % 4}") for n in range(100)]
    messages = [s.sent("poison" if n == 37 else "fine") for n, s in enumerate(sessions)]
    await publish_events(bootstrap, [*messages, *(s.succeeded() for s in sessions)])
    async with tracker(bootstrap, postgres_url) as running:
        await until_value(postgres_url, "SELECT count(*) FROM session_events", 199)
        letters = await letters_of(bootstrap, MESSAGES.name, 1)
        assert letters == expected([Bad(record(messages[37]), "refused-by-postgres")])
        await until_value(postgres_url, "SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'", 100)
        await running.until_ready()
    async with connected(postgres_url) as rows:
        poisoned = await rows.fetch('SELECT role FROM messages WHERE "chatSessionId" = $1', sessions[37].session_id)
        assert [row["role"] for row in poisoned] == ["persona"]
        assert await rows.fetchval("SELECT count(*) FROM messages") == 199
    assert not await read_all(bootstrap, dead_letter_topic(RESULTS.name, TRACKER_GROUP).name)
    await assert_rollups_exact(postgres_url)
