"""`make bench-queries`: what the gateway's reads take on a small and on a large database, side by side.

Seeds two databases by COPY, runs a gateway on each, and asks both in turn the questions that dashboards and people ask.
The users who are asked about have as many sessions on both; the busiest, who have far more on the large one, have a
line of their own. The last line is the worst ratio of p99 on the large one to p99 on the small one, but for theirs.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
from pyreqwest.client import Client, ClientBuilder

from services.database.engine import asyncpg_url, build_engine
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from services.session_tracker.endings import START
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.timeouts import Timeouts
from tests.benchmarks.databases import lent_directory, running, seeded
from tests.benchmarks.retention import report_retention
from tests.benchmarks.seeding import Seed
from tests.integration.gateway import SECRET, token
from tests.sample_events import sweep

DAYS = 90
SAMPLES = 1_000
_RUN_GATEWAY = "import sys; from services.api_gateway.app import main; sys.exit(main())"


@dataclass(frozen=True)
class Side:
    """One database, with a gateway on it, and what can be asked for there."""

    name: str
    client: Client
    gateway: str
    sessions: list[tuple[str, str, str]]
    """Ids, users and personas of some, none of the busiest users'."""
    busiest: Sequence[str]
    deep: dict[str, str]
    """By user, the cursor of a page far down his list up to `half_way`."""
    half_way: str
    sweeps: SweepStore


Question = Callable[[Side, random.Random], Awaitable[None]]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=100_000, help="sessions of the small database")
    parser.add_argument("--large", type=int, default=1_000_000, help="of the large one; 10000000 takes some 15 minutes")
    parser.add_argument("--requests", type=int, default=500, help="of each kind on each database")
    parser.add_argument("--retention", action="store_true", help="then drop a month of the large one beside a writer")
    parser.add_argument("--data", type=Path, help="where the databases stay, and are found by the next run")
    options = parser.parse_args()
    with lent_directory(options.data) as directory, running(directory) as (postgres, bootstrap, reaper):
        await create_topics(KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_replication_factor=1))
        async with ClientBuilder().no_proxy().build() as client:
            sides = []
            for side, sessions in (("small", options.small), ("large", options.large)):
                url = await seeded(postgres, f"sessions_{sessions}", sessions)
                gateway, _ = start_gateway(directory, bootstrap, url, reaper)
                sides.append(await opened(side, client, gateway, url, sessions))
            postgres.run_sql("CHECKPOINT")  # what seeding wrote is not to be written while reads are timed
            code = report(options, await measured(sides, options.requests))
        if options.retention:
            await report_retention(postgres.url(f"sessions_{options.large}"))
        return code


def start_gateway(directory: Path, bootstrap: str, url: str, reaper: Reaper) -> tuple[str, ChildProcess]:
    port = free_port()
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_IDEMPOTENCE": "false",
        "DATABASE_URL": url,
        "JWT_SECRET": SECRET,
        "GATEWAY_PORT": str(port),
        "RATE_LIMIT_READS": "0",
    }
    log = directory / f"gateway-{port}.log"
    command = [sys.executable, "-c", _RUN_GATEWAY]
    process = start_process("gateway", command, environment=environment, log_path=log, reaper=reaper)
    return f"http://127.0.0.1:{port}", process


async def opened(name: str, client: Client, gateway: str, url: str, sessions: int) -> Side:
    await until_ready(gateway)
    connection = await asyncpg.connect(asyncpg_url(url))
    share = min(100.0, 100 * 5 * SAMPLES / sessions)
    rows = await connection.fetch(
        f'SELECT "sessionId", "userId", "personaId" FROM chat_sessions TABLESAMPLE BERNOULLI ({share})'
        f" ORDER BY random() LIMIT {SAMPLES}"
    )
    await connection.close()
    busiest = Seed(sessions, datetime.now(UTC)).busiest
    some = [(str(row["sessionId"]), row["userId"], row["personaId"]) for row in rows if row["userId"] not in busiest]
    sweeps = SweepStore(engine := build_engine(url), SessionStore(engine))
    side = Side(name, client, gateway, some, busiest, {}, before(60), sweeps)
    for _, user, _ in some[:50]:
        page = await get(side, "/api/chat-sessions", user, to=side.half_way, limit="1")
        if page["nextCursor"]:
            side.deep[user] = page["nextCursor"]
    return side


async def until_ready(gateway: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        give_up = time.monotonic() + 60
        while not await ready(http, gateway):
            if time.monotonic() > give_up:
                raise SystemExit("The gateway did not become ready.")
            await asyncio.sleep(0.1)


async def ready(http: httpx.AsyncClient, gateway: str) -> bool:
    try:
        return (await http.get(f"{gateway}/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def get(side: Side, path: str, user: str | None, **query: str) -> Any:
    """Return what the gateway answers a user, None for an admin."""
    secret = token(user or "root", admin=user is None)
    response = await side.client.get(side.gateway + path).query(query).bearer_auth(secret).build().send()
    body = await response.bytes()
    if response.status != 200:
        raise SystemExit(f"{path} answered {response.status}: {bytes(body)[:300].decode()}")
    return orjson.loads(bytes(body))


def before(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def list_by_user(side: Side, chance: random.Random) -> None:
    await get(side, "/api/chat-sessions", chance.choice(side.sessions)[1])


async def list_by_status_and_persona(side: Side, chance: random.Random) -> None:
    persona = chance.choice(side.sessions)[2]
    await get(side, "/api/chat-sessions", None, status="FAILED", personaId=persona)


async def deep_page(side: Side, chance: random.Random) -> None:
    user, cursor = chance.choice(list(side.deep.items()))
    await get(side, "/api/chat-sessions", user, to=side.half_way, cursor=cursor)


async def session_detail(side: Side, chance: random.Random) -> None:
    session, user, _ = chance.choice(side.sessions)
    await get(side, f"/api/chat-sessions/{session}", user)


async def statistics_of_user(side: Side, chance: random.Random) -> None:
    await statistics(side, chance, chance.choice(side.sessions)[1])


async def statistics_of_busiest(side: Side, chance: random.Random) -> None:
    await statistics(side, chance, chance.choice(side.busiest))


async def statistics_of_persona(side: Side, chance: random.Random) -> None:
    await statistics(side, chance, None, personaId=chance.choice(side.sessions)[2])


async def statistics_of_all(side: Side, chance: random.Random) -> None:
    await statistics(side, chance, None)


async def statistics(side: Side, chance: random.Random, user: str | None, **query: str) -> None:
    # A range begins anywhere in an hour: the first sessions, up to those of an hour, are counted one by one.
    await get(side, "/api/chat-sessions/stats", user, **query, **{"from": before(DAYS + chance.random() / 24)})


async def sweep_of_nothing(side: Side, chance: random.Random) -> None:
    chunk = await side.sweeps.time_out(sweep(), Timeouts(24), START, 500)
    if chunk.transitions:
        raise SystemExit("The sweep was to find nothing.")


QUESTIONS: dict[str, Question] = {
    "list by user": list_by_user,
    "by status and persona": list_by_status_and_persona,
    "deep cursor page": deep_page,
    "session detail": session_detail,
    "stats of a user, 90 days": statistics_of_user,
    "stats of the busiest users": statistics_of_busiest,
    "stats of a persona": statistics_of_persona,
    "stats of all": statistics_of_all,
    "sweep of nothing": sweep_of_nothing,
}


async def measured(sides: list[Side], requests: int) -> dict[str, dict[str, list[float]]]:
    """Return, by question and side, the milliseconds of each request, sorted; the sides take turns."""
    chance = random.Random(1)
    took: dict[str, dict[str, list[float]]] = {name: {side.name: [] for side in sides} for name in QUESTIONS}
    for number in range(-50, requests):
        for name, ask in QUESTIONS.items():
            for side in sides:
                began = time.perf_counter()
                await ask(side, chance)
                if number >= 0:
                    took[name][side.name].append((time.perf_counter() - began) * 1000)
    return {name: {side: sorted(times) for side, times in by_side.items()} for name, by_side in took.items()}


def report(options: argparse.Namespace, took: dict[str, dict[str, list[float]]]) -> int:
    print(f"{'milliseconds over HTTP':<27} {options.small:>11,} sessions   {options.large:>11,} sessions    p99 ratio")
    print(f"{'':<27} {'p50':>9} {'p99':>9}    {'p50':>9} {'p99':>9}")
    ratios = []
    for name, times in took.items():
        p50, p99 = ({side: each[int(len(each) * q)] for side, each in times.items()} for q in (0.5, 0.99))
        ratio = p99["large"] / p99["small"]
        if QUESTIONS[name] is not statistics_of_busiest:
            ratios.append(ratio)
        print(
            f"{name:<27} {p50['small']:9.2f} {p99['small']:9.2f}    {p50['large']:9.2f} {p99['large']:9.2f}"
            f"    {ratio:9.2f}"
        )
    print(f"queries ratio {max(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
