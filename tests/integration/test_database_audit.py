"""The audit log is only ever added to; whole months of it may go."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts.session import AttemptOutcome, FailureKind
from services.database.audit import ActorKind, entry
from services.database.audit_partitions import audit_months, create_audit_partition
from services.database.engine import build_engine
from services.database.partitions import months_ahead
from services.database.tables import audit_log
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker.endings import START
from services.session_tracker.months import Months
from services.session_tracker.overdue_store import OverdueStore
from services.session_tracker.retention import AuditRetention
from services.session_tracker.store import SessionStore
from tests.integration.test_tracker_fold import arrivals
from tests.sample_events import SessionEvents

NOW = datetime.now(UTC)
THIS_MONTH = next(months_ahead(NOW))
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(postgres_url)
    yield engine
    await engine.dispose()


async def add(connection: AsyncConnection, at: datetime = NOW) -> None:
    values = entry(ActorKind.ADMIN, "root", "persona.put", "p", "done")
    await connection.execute(insert(audit_log), {**values, "at": at})


@pytest.mark.parametrize("table", ["audit_log", f"audit_log_{THIS_MONTH:%Y_%m}"])
@pytest.mark.parametrize("change", ["UPDATE {} SET actor = 'nobody'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_nothing_is_changed_or_removed(engine: AsyncEngine, change: str, table: str) -> None:
    async with engine.begin() as connection:
        await add(connection)
    with pytest.raises(DBAPIError, match="only ever added to"):
        async with engine.begin() as connection:
            await connection.execute(text(change.format(table)))
    async with engine.connect() as connection:
        assert await connection.scalar(select(audit_log.c.actor)) == "root"


async def test_there_is_room_for_the_next_months_from_the_start(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        assert await audit_months(connection) == list(months_ahead(NOW))
        later = list(months_ahead(NOW))[-1]
    await Months(engine).make_ahead(later)
    async with engine.begin() as connection:
        assert await audit_months(connection) == sorted({*months_ahead(NOW), *months_ahead(later)})
        await add(connection, later)


async def test_retention_drops_whole_months_and_says_so(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_audit_partition(connection, LONG_AGO)
        await create_audit_partition(connection, LONG_AGO)
        await add(connection, LONG_AGO)
        await add(connection)
    retention = AuditRetention(engine, keep=timedelta(days=60))
    await retention.drop_due(LONG_AGO + timedelta(days=80))
    async with engine.connect() as connection:
        assert LONG_AGO in await audit_months(connection), "its last entries are younger than 60 days"
    await retention.drop_due(NOW)
    await retention.drop_due(NOW)
    async with engine.connect() as connection:
        assert await audit_months(connection) == list(months_ahead(NOW))
        rows = (await connection.execute(select(audit_log.c.action, audit_log.c.target))).all()
    assert sorted(tuple(row) for row in rows) == [("persona.put", "p"), ("retention.drop", "audit_log 2026-01")]


async def test_cancels_and_failed_calls_are_written_with_the_fold(engine: AsyncEngine) -> None:
    names = Pseudonyms(b"k" * 32)
    store = SessionStore(engine, names)
    by_user, by_admin, failed, late = (SessionEvents() for _ in range(4))
    batch = [by_user.sent(), by_user.cancelled(), by_admin.sent(), by_admin.cancelled(by="root")]
    batch += [failed.sent(), late.sent()]
    batch += [failed.attempted(), failed.failed(FailureKind.TIMEOUT), late.succeeded(), late.failed(FailureKind.TLS)]
    for event in batch:
        await Months(engine).ensure(event.session_id)
    await store.fold(arrivals(batch), {})
    await store.fold(arrivals(batch), {})
    async with engine.connect() as connection:
        rows = (await connection.execute(select(audit_log))).all()
    told = {(row.target, row.action): (row.actorKind, row.actor, row.outcome) for row in rows}
    assert told == {
        (str(by_user.session_id), "session.cancel"): ("user", names.of("u1"), "cancelled"),
        (str(by_admin.session_id), "session.cancel"): ("admin", "root", "cancelled"),
        (str(failed.session_id), "webhook.call"): ("system", "webhook-dispatcher", "failed"),
    }
    assert len(rows) == 3, "what is folded again is not written again"
    [call] = [row.details for row in rows if row.action == "webhook.call"]
    assert (call["personaId"], call["failureKind"]) == ("p1", "timeout")


async def test_a_callback_that_never_came_is_a_failed_call(engine: AsyncEngine) -> None:
    store, events = SessionStore(engine), SessionEvents()
    await Months(engine).ensure(events.session_id)
    accepted = {"outcome": AttemptOutcome.ACCEPTED, "failure_kind": None, "deadline_at": NOW}
    await store.fold(arrivals([events.sent(), events.attempted(**accepted)]), {})
    await OverdueStore(store).end(NOW + timedelta(seconds=1), START, 10)
    async with engine.connect() as connection:
        row = (await connection.execute(select(audit_log))).one()
    assert (row.actor, row.action, row.target) == ("session-tracker", "webhook.call", str(events.session_id))
    assert row.details["failureKind"] == "callback-timeout"
