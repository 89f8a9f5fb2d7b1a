"""Messages published again after a broker lost them: the open ones, with their own ids, and to no effect."""

from datetime import UTC, datetime, timedelta

import pytest

from services.contracts import AttemptOutcome, MessageSent, decode
from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.contracts.policy import CallPolicy
from services.contracts.topics import MESSAGES, TRACKER_GROUP
from services.database.engine import build_engine
from services.session_tracker import recovery
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.recovery import recover
from services.session_tracker.store import SessionStore
from tests.integration.kafka_log import producer, read_all
from tests.integration.tracker_process import (
    TRACKER_PARTITIONS,
    changes,
    connected,
    offsets,
    tracker,
    until,
)
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents

EVERYTHING = {
    "chat_sessions": '"sessionId"',
    "session_events": '"sessionId", "eventId"',
    "messages": '"chatSessionId", id',
    "conversations": '"conversationId"',
    "session_rollups": "granularity, bucket, scope, shard",
}

TEMPLATE = {"template_id": "t", "template_version": 2, "call_policy": CallPolicy(max_attempts=1, timeout_seconds=5)}


async def snapshot(database_url: str) -> dict[str, list[object]]:
    async with connected(database_url) as rows:
        return {
            table: list(await rows.fetch(f"SELECT * FROM {table} ORDER BY {key}")) for table, key in EVERYTHING.items()
        }


async def test_open_sessions_are_sent_again_as_they_were(
    bootstrap: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PAGE", 3)
    sessions = [SessionEvents(conversation=f"c{n}") for n in range(8)]
    messages = [s.sent(f"message {n}", resumed_from=new_id(), **TEMPLATE) for n, s in enumerate(sessions)]
    accepted = sessions[6].attempted(
        outcome=AttemptOutcome.ACCEPTED, failure_kind=None, deadline_at=datetime.now(UTC) + timedelta(hours=1)
    )
    # The last one is known by its attempt alone: its message is still to come.
    told_early = SessionEvents(conversation="c9").attempted()
    events: list[TrackedEvent] = [*messages, sessions[0].succeeded(), sessions[1].attempted(), accepted, told_early]
    engine = build_engine(postgres_url)
    try:
        await Months(engine).ensure(new_id())
        await SessionStore(engine).fold([Arrival(e, e.occurred_at, 0, n) for n, e in enumerate(events)], {})
        async with producer(bootstrap) as client:
            assert await recover(engine, client) == 6
    finally:
        await engine.dispose()
    records = await read_all(bootstrap, MESSAGES.name)
    decoded = [decode(r.topic, r.headers, r.value) for r in records]
    found = sorted((e for e in decoded if isinstance(e, MessageSent)), key=lambda event: event.session_id)
    assert found == [message for n, message in enumerate(messages) if n not in {0, 6}]
    before = await snapshot(postgres_url)
    async with tracker(bootstrap, postgres_url):

        async def all_committed() -> bool:
            return sum((await offsets(bootstrap, TRACKER_GROUP, TRACKER_PARTITIONS)).values()) == len(records)

        await until(all_committed, "the tracker had worked on all that was sent again")
    assert await snapshot(postgres_url) == before
    assert {event.session_id for event in await changes(bootstrap)} == {event.session_id for event in found}
    await assert_rollups_exact(postgres_url)
