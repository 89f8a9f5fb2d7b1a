"""Old months are dropped and old personal data goes, against PostgreSQL, while events still come for both."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.contracts.topics import MESSAGES, RESULTS, TRACKER_GROUP, dead_letter_topic
from services.database.engine import build_engine
from services.database.partitions import first_id, id_at, next_month, partition_name
from services.session_tracker import anonymisation
from services.session_tracker.anonymisation import Anonymisation
from services.session_tracker.faults import PostgresAway
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.retention import Retention
from services.session_tracker.store import SessionStore
from tests.integration.kafka_log import read_all
from tests.integration.tracker_process import connected, publish_events, tracker, until_value
from tests.patience import PATIENT_SECONDS
from tests.recount import counted
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker

MAY, JUNE, JULY = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6, 7))
KEEP = timedelta(days=30)
JUNE_IS_DUE = next_month(JUNE) + KEEP
PERSONAL = {"ipAddress": "192.0.2.7", "userAgent": "a phone", "deviceInfo": {"os": "x"}}


@dataclass(frozen=True)
class Life:
    """A database with sessions in it, and what shortens their lives."""

    engine: AsyncEngine
    rows: asyncpg.Connection
    metrics: TrackerMetrics
    url: str

    @property
    def retention(self) -> Retention:
        return Retention(self.engine, self.metrics, keep=KEEP)

    def anonymisation(self, days: int = 30) -> Anonymisation:
        return Anonymisation(self.engine, self.metrics, keep=timedelta(days=days))

    async def fold(self, events: Iterable[TrackedEvent]) -> None:
        events = list(events)
        months = Months(self.engine)
        for event in events:
            await months.ensure(event.session_id)
        await SessionStore(self.engine).fold([Arrival(e, e.occurred_at, 0, n) for n, e in enumerate(events)], {})

    async def months(self, table: str = "chat_sessions") -> list[str]:
        names = await self.rows.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE $1", f"{table}_2%"
        )
        return sorted(row["relname"].removeprefix(f"{table}_") for row in names)


@pytest.fixture
async def life(postgres_url: str) -> AsyncIterator[Life]:
    engine = build_engine(postgres_url, pool_size=8)
    async with connected(postgres_url) as rows:
        yield Life(engine, rows, TrackerMetrics(CollectorRegistry()), postgres_url)
    await engine.dispose()


def session_at(moment: datetime, **identity: str) -> SessionEvents:
    return SessionEvents(session_id=UUID(int=id_at(moment).int | new_id().int & (1 << 80) - 1), **identity)


def completed(moment: datetime) -> list[TrackedEvent]:
    one = session_at(moment)
    return [one.sent(), one.succeeded()]


async def test_months_that_are_old_enough_go_whole_and_their_statistics_stay(life: Life) -> None:
    await life.fold(
        [*completed(MAY), *completed(JUNE), *completed(next_month(JUNE) - timedelta(seconds=1)), *completed(JULY)]
    )
    before = await counted(life.rows)
    await life.retention.drop_due(JUNE_IS_DUE - timedelta(seconds=1))
    assert await life.months() == ["2026_06", "2026_07"]
    await life.retention.drop_due(JUNE_IS_DUE)
    for table in ("messages", "session_events", "chat_sessions"):
        assert await life.months(table) == ["2026_07"]
    assert await life.rows.fetchval("SELECT count(*) FROM chat_sessions") == 1
    assert [row["month"] for row in await life.rows.fetch("SELECT month FROM dropped_months ORDER BY 1")] == [MAY, JUNE]
    audit = await life.rows.fetch("SELECT target, details FROM audit_log WHERE action = 'retention.drop' ORDER BY at")
    assert [(row["target"], json.loads(row["details"])) for row in audit] == [
        ("2026-05", {"retentionDays": 30}),
        ("2026-06", {"retentionDays": 30}),
    ]
    assert await counted(life.rows) == before


async def test_a_month_with_active_sessions_stays_and_so_do_those_after_it(life: Life) -> None:
    open_one = session_at(MAY)
    await life.fold([open_one.sent(), *completed(JUNE), *completed(JULY)])
    await life.retention.drop_due(JUNE_IS_DUE)
    assert await life.months() == ["2026_05", "2026_06", "2026_07"]
    assert life.metrics.months_overdue._value.get() == 2
    await life.fold([open_one.failed()])
    await life.retention.drop_due(JUNE_IS_DUE)
    assert await life.months() == ["2026_07"]
    assert life.metrics.months_overdue._value.get() == 0


@pytest.mark.parametrize("left", ["recorded", "messages dropped", "messages detached"])
async def test_what_a_crash_left_half_dropped_is_finished(life: Life, left: str) -> None:
    await life.fold([*completed(MAY), *completed(JUNE)])
    await life.rows.execute("INSERT INTO dropped_months (month) VALUES ($1)", MAY)
    if left != "recorded":
        await life.rows.execute("ALTER TABLE messages DETACH PARTITION messages_2026_05 CONCURRENTLY")
    if left == "messages dropped":
        await life.rows.execute("DROP TABLE messages_2026_05")
    await life.retention.drop_due(next_month(MAY))
    assert await life.months() == ["2026_06"]
    assert await life.rows.fetchval("SELECT count(*) FROM messages") == 2


async def test_a_detach_that_was_broken_off_is_finished(life: Life) -> None:
    await life.fold([*completed(MAY), *completed(JUNE)])
    async with connected(life.url) as reader:
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("SELECT count(*) FROM messages")
        with pytest.raises(PostgresAway):
            await life.retention.drop_due(next_month(MAY) + KEEP)
        assert await life.rows.fetchval("SELECT bool_or(inhdetachpending) FROM pg_inherits")
        await reading.rollback()
    await life.retention.drop_due(next_month(MAY) + KEEP)
    assert await life.months("messages") == await life.months() == ["2026_06"]


async def test_two_processes_drop_a_month_once(life: Life) -> None:
    await life.fold([*completed(MAY), *completed(JUNE)])
    async with asyncio.timeout(PATIENT_SECONDS):
        await asyncio.gather(*(life.retention.drop_due(next_month(MAY) + KEEP) for _ in range(3)))
    assert await life.months() == ["2026_06"]
    assert life.metrics.months_dropped._value.get() == 1


async def test_partitions_are_made_while_readers_hold_the_tables(life: Life) -> None:
    await life.fold(completed(MAY))
    async with connected(life.url) as reader, reader.transaction():
        await reader.fetch("SELECT count(*) FROM chat_sessions, messages, session_events")
        await Months(life.engine).ensure(first_id(JUNE))
    assert await life.months() == ["2026_05", "2026_06"]


async def test_partitions_are_not_waited_for_without_end(life: Life) -> None:
    await life.fold(completed(MAY))
    async with connected(life.url) as writer, writer.transaction():
        await writer.execute("LOCK TABLE chat_sessions IN ROW EXCLUSIVE MODE")
        with pytest.raises(PostgresAway, match="LockNotAvailable"):
            await Months(life.engine).ensure(first_id(JUNE))
    await Months(life.engine).ensure(first_id(JUNE))
    assert await life.months("messages") == ["2026_05", "2026_06"]


async def test_events_of_a_month_dropped_meanwhile_are_dead_letters_that_say_so(bootstrap: str, life: Life) -> None:
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=70)
    # The tracker has come to know the month; then another process drops it.
    first, late, fresh = session_at(long_ago), session_at(long_ago), SessionEvents()
    async with tracker(bootstrap, life.url) as running:
        await running.until_ready()
        await publish_events(bootstrap, [first.sent(), first.succeeded()])
        await until_value(life.url, "SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'", 1)
        await life.retention.drop_due(now)
        assert partition_name("messages", long_ago) not in [
            f"messages_{month}" for month in await life.months("messages")
        ]
        await publish_events(bootstrap, [late.sent(), late.succeeded(), first.attempted(), fresh.sent()])
        await until_value(life.url, "SELECT count(*) FROM chat_sessions WHERE status = 'ACTIVE'", 1)
        reasons: list[bytes | None] = []
        async with asyncio.timeout(PATIENT_SECONDS):
            while len(reasons) < 3:
                reasons = [
                    dict(letter.headers)["dlq-reason"]
                    for topic in (MESSAGES, RESULTS)
                    for letter in await read_all(bootstrap, dead_letter_topic(topic.name, TRACKER_GROUP).name)
                ]
    assert reasons == [b"dropped-month"] * 3


async def metadata_everywhere(life: Life, session_id: UUID) -> list[dict[str, object]]:
    rows = await life.rows.fetch(
        """
        SELECT metadata FROM chat_sessions WHERE "sessionId" = $1
        UNION ALL SELECT body->'metadata' FROM session_events WHERE "sessionId" = $1 AND body ? 'metadata'
        """,
        session_id,
    )
    return [json.loads(row["metadata"]) for row in rows]


async def test_personal_data_goes_from_old_sessions_and_their_events(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anonymisation, "CHUNK", 3)
    monkeypatch.setattr(anonymisation, "PAUSE_SECONDS", 0)
    now = datetime.now(UTC)
    old = [session_at(now - timedelta(days=30, minutes=n)) for n in range(1, 9)]
    young = session_at(now - timedelta(days=29, hours=23))
    kept = {"channel": "web"}
    events = [one.sent().model_copy(update={"metadata": PERSONAL | kept}) for one in (*old, young)]
    await life.fold([*events, old[0].succeeded()])
    others = 'SELECT status, version, "lastActivityAt" FROM chat_sessions ORDER BY 1, 2, 3'
    before = await life.rows.fetch(others)
    await life.anonymisation().run(now)
    for one in old:
        assert await metadata_everywhere(life, one.session_id) == [kept, kept]
    assert await metadata_everywhere(life, young.session_id) == [PERSONAL | kept] * 2
    assert await life.rows.fetch(others) == before
    assert life.metrics.anonymised._value.get() == len(old)

    await life.anonymisation().run(now)
    await life.anonymisation().run(now + timedelta(hours=2))
    assert life.metrics.anonymised._value.get() == len(old) + 1
    # The same events again, as after a crash of the tracker: known, so nothing of them comes back.
    await life.fold(events)
    assert await metadata_everywhere(life, old[0].session_id) == [kept, kept]


async def test_a_late_message_does_not_bring_personal_data_back(bootstrap: str, life: Life) -> None:
    now = datetime.now(UTC)
    old, new = session_at(now - timedelta(days=30)), SessionEvents()
    async with tracker(bootstrap, life.url, chat_session_anonymize_days=30):
        events = [one.sent().model_copy(update={"metadata": PERSONAL | {"a": 1}}) for one in (old, new)]
        await publish_events(bootstrap, events)
        await until_value(life.url, "SELECT count(*) FROM chat_sessions", 2)
    assert await metadata_everywhere(life, old.session_id) == [{"a": 1}] * 2
    assert await metadata_everywhere(life, new.session_id) == [PERSONAL | {"a": 1}] * 2
