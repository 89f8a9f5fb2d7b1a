"""A tracker killed between its commits to PostgreSQL and to Kafka, several times, loses nothing and doubles nothing."""

import random
import signal
from collections import Counter
from pathlib import Path

from services.contracts import SessionStatus
from services.contracts.events import TrackedEvent
from services.contracts.topics import TRACKER_GROUP
from services.local.reaper import Reaper
from tests.integration.tracker_process import (
    TRACKER_PARTITIONS,
    changes,
    connected,
    offsets,
    publish_events,
    tracker_process,
    until,
)
from tests.recount import assert_rollups_exact
from tests.sample_events import SessionEvents

BATCH_RECORDS = 50
KILLED_AFTER = """
import os, signal, sys
from services.session_tracker import app
from services.session_tracker.store import SessionStore

fold = SessionStore.fold
commits_left = int(sys.argv[1])

async def fold_and_die(self, arrivals, progress):
    global commits_left
    committed = await fold(self, arrivals, progress)
    commits_left -= 1
    if commits_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return committed

SessionStore.fold = fold_and_die
sys.exit(app.main())
"""


def one_session(chance: random.Random, number: int) -> tuple[list[TrackedEvent], SessionStatus]:
    """Return the events of a session that ends at most once, and how it ends."""
    events = SessionEvents(conversation=f"c{number % 60}", persona=f"p{number % 4}", user=f"u{number % 9}")
    told: list[TrackedEvent] = [events.sent(f"message {number}")]
    told += [events.attempted(n + 1) for n in range(chance.randint(0, 2))]
    end = chance.choice([SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED, SessionStatus.ACTIVE])
    match end:
        case SessionStatus.COMPLETED:
            told.append(events.succeeded(f"reply {number}"))
        case SessionStatus.FAILED:
            told.append(events.failed())
        case SessionStatus.CANCELLED:
            told.append(events.cancelled())
    return told, end


async def test_killed_between_its_two_commits(
    bootstrap: str, postgres_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    chance = random.Random(7)
    sessions = [one_session(chance, number) for number in range(500)]
    rest = [event for told, _ in sessions for event in told]
    everything = {event.event_id for event in rest}
    log = tmp_path / "tracker.log"
    for commits in (1, 3, 5):
        slice_, rest = rest[:350], rest[350:]
        await publish_events(bootstrap, slice_)
        program = ("-c", KILLED_AFTER, str(commits))
        with tracker_process(
            bootstrap, postgres_url, log, reaper, program=program, batch_records=BATCH_RECORDS
        ) as running:
            assert await running.exit_code() == -signal.SIGKILL, running.child.last_lines(30)
        async with connected(postgres_url) as rows:
            known = await rows.fetchval("SELECT count(*) FROM session_events")
        assert known > sum((await offsets(bootstrap, TRACKER_GROUP, TRACKER_PARTITIONS)).values())
    await publish_events(bootstrap, rest)
    with tracker_process(bootstrap, postgres_url, log, reaper, batch_records=BATCH_RECORDS) as running:

        async def finished() -> bool:
            return sum((await offsets(bootstrap, TRACKER_GROUP, TRACKER_PARTITIONS)).values()) == len(everything)

        await until(finished, "every offset was committed")
        running.child.ask_to_stop()
        assert await running.exit_code() == 0

    async with connected(postgres_url) as rows:
        found = {row["sessionId"]: row for row in await rows.fetch("SELECT * FROM chat_sessions")}
        history = {row["eventId"] for row in await rows.fetch("SELECT * FROM session_events WHERE NOT late")}
        contents = Counter(row["content"] for row in await rows.fetch("SELECT content FROM messages"))
    assert history == everything
    for told, status in sessions:
        row = found[told[0].session_id]
        assert (row["status"], row["version"]) == (status, len(told))
    assert set(contents.values()) == {1}
    assert len(contents) == 500 + sum(status is SessionStatus.COMPLETED for _, status in sessions)
    last_told = {event.session_id: (event.version, event.status) for event in await changes(bootstrap)}
    assert last_told == {id_: (row["version"], row["status"]) for id_, row in found.items()}
    await assert_rollups_exact(postgres_url)
