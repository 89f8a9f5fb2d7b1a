"""`make bench-erasure`: what the fold loses, and how long it waits, while a user with very many sessions is erased.

A writer folds batches of other users' messages and replies, first alone, then beside the erasing. The last line is its
rate beside, over that alone.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts import ErasureRequested, new_id
from services.database.engine import build_engine
from services.database.migrate import migrate
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker.erasing import Erasing
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from tests.benchmarks.queries import running, say
from tests.benchmarks.seeding import Seed, seed
from tests.sample_events import SessionEvents

BATCH_SESSIONS = 50
ALONE_SECONDS = 10.0
USER = "user-0"


class OneUsers(Seed):
    """All of them are one user's."""

    def user(self, chance: random.Random) -> str:
        return USER


@dataclass(frozen=True, slots=True)
class Told:
    """What the writer did."""

    batches: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Events in a second."""
        return len(self.batches) * BATCH_SESSIONS * 2 / self.seconds

    def __str__(self) -> str:
        p99 = sorted(self.batches)[len(self.batches) * 99 // 100]
        longest = max(self.batches)
        return f"{self.rate:8,.0f} events/s; a batch p99 {p99 * 1000:.0f} ms, longest {longest * 1000:.0f} ms"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000, help="of the user, over four months")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as name, running(Path(name)) as (postgres, _, _):
        await migrate(postgres.url())
        await seed(postgres.url(), OneUsers(options.sessions, datetime.now(UTC)))
        say(f"Seeded {options.sessions:,} sessions of one user")
        engine = build_engine(postgres.url(), pool_size=8)
        await Months(engine).make_ahead(datetime.now(UTC))
        alone, beside = await compared(engine)
        left = postgres.run_sql(f"SELECT count(*) FROM chat_sessions WHERE \"userId\" = '{USER}'", "chat_sessions")
        await engine.dispose()
    print(f"alone   {alone}")
    print(f"beside  {beside}; {options.sessions:,} sessions were erased in {beside.seconds:.0f} s, {left} are left")
    print(f"erasure ratio {beside.rate / alone.rate:.2f}")
    return 0


async def compared(engine: AsyncEngine) -> tuple[Told, Told]:
    """Return what the writer does alone, and while the user is erased."""
    names = Pseudonyms(b"k" * 32)
    store = SessionStore(engine, names)
    await written(store, asyncio.sleep(ALONE_SECONDS))  # warm
    alone = await written(store, asyncio.sleep(ALONE_SECONDS))
    now = datetime.now(UTC)
    request = ErasureRequested(
        event_id=new_id(), occurred_at=now, conversation_id="c", user_id=USER, requested_by="root", before=now
    )
    await store.begin_erasures([request])
    erasing = Erasing(engine, names, TrackerMetrics(CollectorRegistry()))
    return alone, await written(store, erasing.run(now))


async def written(store: SessionStore, until: Awaitable[None]) -> Told:
    """Fold one batch after the other until the awaitable is done."""
    batches: list[float] = []
    is_over = asyncio.Event()

    async def write() -> None:
        # Not cancelled: a transaction that is broken off could keep its locks for as long as its connection is kept.
        while not is_over.is_set():
            began = time.perf_counter()
            each = [SessionEvents(conversation=f"c{n}", user=f"u{n}") for n in range(BATCH_SESSIONS)]
            events = [event for one in each for event in (one.sent(), one.succeeded())]
            await store.fold([Arrival(event, event.occurred_at, 0, n) for n, event in enumerate(events)], {})
            batches.append(time.perf_counter() - began)

    writing, began = asyncio.create_task(write()), time.perf_counter()
    await until
    seconds = time.perf_counter() - began
    is_over.set()
    await writing
    return Told(batches, seconds)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
