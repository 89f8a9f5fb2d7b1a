"""`make bench-export`: the gateway's memory while it exports a large database, and what others wait for it meanwhile.

Exports everything in each format, then all of it in four parts at once, while a user reads his list ten times a
second. The last line is the most memory above idle, over the 150 MB that it may be.
"""

import argparse
import asyncio
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil

from services.database.migrate import migrate
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from tests.benchmarks.databases import running, say
from tests.benchmarks.queries import start_gateway, until_ready
from tests.benchmarks.seeding import Seed, seed
from tests.integration.gateway import bearer

ALLOWED_MB = 150
SAMPLE_SECONDS = 0.02
READ_SECONDS = 0.1
DAYS = 120
EXPORTS = {
    "NDJSON": ("ndjson", "identity", 1), "NDJSON, gzip": ("ndjson", "gzip", 1), "CSV": ("csv", "identity", 1),
    "four at once": ("ndjson", "gzip", 4),
}  # fmt: skip
"""Format, encoding, and how many at once: each of a part of the sessions."""


@dataclass
class Meanwhile:
    """What was seen while an export ran."""

    peak: int = 0
    reads: list[float] = field(default_factory=list)

    def quantile(self, q: float) -> float:
        return sorted(self.reads)[int(len(self.reads) * q)]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="of the database, over four months")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as name, running(Path(name)) as (
        postgres, bootstrap, reaper,
    ):  # fmt: skip
        await create_topics(KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_replication_factor=1))
        await migrate(postgres.url())
        began = time.monotonic()
        await seed(postgres.url(), Seed(options.sessions, datetime.now(UTC), DAYS, rollups=False))
        say(f"Seeded {options.sessions:,} sessions in {time.monotonic() - began:.0f} s")
        url, gateway = start_gateway(Path(name), bootstrap, postgres.url(), reaper)
        await until_ready(url)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            return await report(http, psutil.Process(gateway.pid), options.sessions)


async def report(http: httpx.AsyncClient, gateway: psutil.Process, sessions: int) -> int:
    async with watched(http, gateway) as idle:
        await asyncio.sleep(5)
    print(f"{'':<14} {'seconds':>8} {'sessions/s':>11} {'MB sent':>8} {'RSS, MB':>8} {'others p50':>11} {'p99, ms':>8}")
    print(f"{'idle':<14} {'':>29} {idle.peak / 1e6:8.1f} {idle.quantile(0.5):11.1f} {idle.quantile(0.99):8.1f}")
    worst = 0
    for name, (form, encoding, times) in EXPORTS.items():
        began = time.monotonic()
        async with watched(http, gateway) as seen:
            sent = await asyncio.gather(*(export(http, form, encoding, sessions, times) for _ in range(times)))
        took = time.monotonic() - began
        print(
            f"{name:<14} {took:8.1f} {sessions / took:11,.0f} {sum(sent) / 1e6:8.1f} {seen.peak / 1e6:8.1f}"
            f" {seen.quantile(0.5):11.1f} {seen.quantile(0.99):8.1f}"
        )
        worst = max(worst, seen.peak)
    print(f"export ratio {(worst - idle.peak) / 1e6 / ALLOWED_MB:.2f}")
    return 0


async def export(http: httpx.AsyncClient, form: str, encoding: str, sessions: int, share: int) -> int:
    """Read an export of the last part of the time, one of `share` parts; return its bytes as they were sent."""
    headers = {**bearer("root", admin=True), "accept-encoding": encoding}
    query = {"format": form, "q": f"startedAt:>={(datetime.now(UTC) - timedelta(days=DAYS / share)).isoformat()}"}
    unpacked = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if encoding == "gzip" else None
    lines = sent = 0
    async with http.stream("GET", "/api/chat-sessions/export", headers=headers, params=query) as answer:
        async for part in answer.aiter_raw():
            sent += len(part)
            lines += (part if unpacked is None else unpacked.decompress(part)).count(b"\n")
    if lines < sessions * 0.99 / share:
        raise SystemExit(f"The export has {lines} lines for {sessions} sessions.")
    return sent


@asynccontextmanager
async def watched(http: httpx.AsyncClient, gateway: psutil.Process) -> AsyncIterator[Meanwhile]:
    """Sample the memory of the gateway, and read a user's list again and again, until the block ends."""
    seen = Meanwhile()

    async def look() -> None:
        while True:
            seen.peak = max(seen.peak, gateway.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def read() -> None:
        while True:
            began = time.perf_counter()
            (await http.get("/api/chat-sessions", headers=bearer("user-3"))).raise_for_status()
            seen.reads.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(READ_SECONDS)

    tasks = [asyncio.create_task(look()), asyncio.create_task(read())]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
