"""A user who is to be erased, and the database that holds him among others, for the tests."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.events import ErasureRequested, TrackedEvent
from services.contracts.ids import new_id
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.database.rollups import Granularity, bucket_of, next_bucket
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker.drift import DRIFT, parameters
from services.session_tracker.erasing import Erasing
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from tests.integration.tracker_process import connected
from tests.sample_events import SessionEvents

KEY = b"k" * 32
NAMES = Pseudonyms(KEY)
ALICE, BOB = "alice", "bob"
SECRET = "kangaroo"
"""In everything that alice, or a persona for her, has written."""
BEFORE = datetime(2026, 11, 1, 1, 0, tzinfo=UTC)
TABLES = (
    "chat_sessions",
    "messages",
    "session_events",
    "conversations",
    "session_rollups",
    "audit_log",
    "fold_progress",
    "untold_chunks",
)


def request(user: str = ALICE, before: datetime = BEFORE, conversation: str = "c1") -> ErasureRequested:
    return ErasureRequested(
        event_id=new_id(),
        occurred_at=min(before, datetime.now(UTC)),
        conversation_id=conversation,
        user_id=user,
        requested_by="root",
        before=before,
    )


def session_at(moment: datetime, user: str = ALICE, conversation: str = "c1") -> SessionEvents:
    session_id = UUID(int=id_at(moment).int | new_id().int & (1 << 80) - 1)
    return SessionEvents(session_id=session_id, user=user, conversation=conversation)


def talk(one: SessionEvents, end: str = "succeeded") -> list[TrackedEvent]:
    """A session's events, whose every text has the secret in it."""
    told: list[Any] = [one.sent(f"my {SECRET}"), one.attempted(error_message=SECRET, response_body=SECRET)]
    match end:
        case "succeeded":
            told.append(one.succeeded(f"your {SECRET}"))
        case "failed":
            told.append(one.failed())
        case "cancelled":
            told.append(one.cancelled())
    personal = {"error_message": SECRET, "reason": SECRET, "metadata": {"note": SECRET, "userAgent": SECRET}}
    return [e.model_copy(update={k: v for k, v in personal.items() if hasattr(e, k)}) for e in told]


@dataclass(frozen=True)
class World:
    """A database, what folds into it, and what erases from it."""

    engine: AsyncEngine
    rows: asyncpg.Connection
    url: str
    metrics: TrackerMetrics

    @property
    def store(self) -> SessionStore:
        return SessionStore(self.engine, NAMES)

    async def fold(self, events: Iterable[TrackedEvent], partition: int = 0) -> None:
        events = list(events)
        months = Months(self.engine)
        for event in events:
            await months.ensure(event.session_id)
        await self.store.fold([Arrival(e, e.occurred_at, partition, n) for n, e in enumerate(events)], {})

    async def erase(self, *requests: ErasureRequested) -> None:
        await self.store.begin_erasures(requests or [request()])
        await self.finish()

    async def finish(self) -> None:
        await Erasing(self.engine, NAMES, self.metrics).run(datetime.now(UTC))

    async def everything(self, tables: Sequence[str] = TABLES) -> str:
        """All that the database holds, as text."""
        found = [await self.rows.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} t") for table in tables]
        return "\n".join(sorted(row["row"] for rows in found for row in rows))

    async def of(self, user: str) -> list[Any]:
        """All that a user's sessions are made of."""
        sessions = 'SELECT id FROM chat_sessions WHERE "userId" = $1'
        queries = [
            'SELECT * FROM chat_sessions WHERE "userId" = $1 ORDER BY "sessionId"',
            f'SELECT * FROM messages WHERE "chatSessionId" IN ({sessions}) ORDER BY 2, 1',
            f'SELECT * FROM session_events WHERE "sessionId" IN ({sessions}) ORDER BY 1, 2',
            'SELECT * FROM conversations WHERE "userId" = $1 ORDER BY 1',
        ]
        return [[tuple(row) for row in await self.rows.fetch(query, user)] for query in queries]

    async def drift(self, since: datetime, until: datetime) -> list[Any]:
        """By what the rollups of these days are wrong, as the tracker's own upkeep would find."""
        found: list[Any] = []
        async with self.engine.connect() as connection:
            for granularity, wrong in DRIFT.items():
                whole = max(granularity, Granularity.DAY, key=lambda one: one.length)
                within = parameters(granularity, bucket_of(since, whole), next_bucket(until, whole), most=10)
                found += await connection.execute(wrong, within)
        return found

    async def erasure(self) -> asyncpg.Record:
        return await self.rows.fetchrow("SELECT * FROM erasures")


@contextlib.asynccontextmanager
async def opened_world(postgres_url: str) -> AsyncIterator[World]:
    """Lend the world of a migrated database."""
    engine = build_engine(postgres_url, pool_size=8)
    async with connected(postgres_url) as rows:
        yield World(engine, rows, postgres_url, TrackerMetrics(CollectorRegistry()))
    await engine.dispose()


async def assert_gone(world: World, tables: Sequence[str] = TABLES) -> None:
    everything = await world.everything(tables)
    assert SECRET not in everything
    assert ALICE not in everything
