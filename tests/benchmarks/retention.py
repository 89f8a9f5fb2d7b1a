"""`make bench-retention`: how long a writer has to wait while retention drops a month of a large database.

A writer folds one message after the other, first alone, then while the oldest month is dropped. The last line is the
longest that one of them took, over the second that it may.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.database.engine import build_engine
from services.database.partitions import next_month
from services.database.tables import dropped_months
from services.runtime.faults import PassingFault
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.retention import Retention
from services.session_tracker.store import SessionStore
from tests.benchmarks.databases import running, say, seeded
from tests.sample_events import SessionEvents

ALONE_SECONDS = 5.0
AFTER_SECONDS = 1.0
"""The writer goes on for, so that a stall that began with the last step is measured whole."""
RETRY_SECONDS = 0.5


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="of the database, over four months")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as name, running(Path(name)) as (postgres, _, _):
        await report_retention(await seeded(postgres, "months", options.sessions, rollups=False))
    return 0


async def report_retention(url: str) -> None:
    """Drop the oldest month of a database of four, and print how long a writer had to wait."""
    engine = build_engine(url, pool_size=8)
    alone, dropping, seconds = await stalls(engine, datetime.now(UTC))
    async with engine.connect() as connection:
        months = (await connection.scalars(select(dropped_months.c.month))).all()
    await engine.dispose()
    dropped = " ".join(f"{month:%Y-%m}" for month in months)
    print(f"alone           longest {alone * 1000:7.1f} ms a fold transaction")
    print(f"while dropping  longest {dropping * 1000:7.1f} ms; {dropped} was dropped within {seconds:.1f} s")
    print(f"retention ratio {dropping:.2f}")


async def stalls(engine: AsyncEngine, until: datetime) -> tuple[float, float, float]:
    """Return the longest fold transaction alone and while months are dropped, and how long dropping took."""
    longest = 0.0

    async def write() -> None:
        nonlocal longest
        store = SessionStore(engine)
        while True:
            began = time.perf_counter()
            one = SessionEvents()
            events = [one.sent(), one.succeeded()]
            await store.fold([Arrival(event, event.occurred_at, 0, n) for n, event in enumerate(events)], {})
            longest = max(longest, time.perf_counter() - began)

    oldest = (until - timedelta(days=90)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    retention = Retention(engine, TrackerMetrics(CollectorRegistry()), keep=until - next_month(oldest))
    writing = asyncio.create_task(write())
    await asyncio.sleep(ALONE_SECONDS)
    alone, longest = longest, 0.0
    began = time.perf_counter()
    while True:
        try:
            await retention.drop_due(until)
        except PassingFault as fault:
            say(str(fault))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            break
    seconds = time.perf_counter() - began
    await asyncio.sleep(AFTER_SECONDS)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    return alone, longest, seconds


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
