"""`make bench-gateway`: messages accepted, sessions and lists read by one gateway, beside bare routes, in turns.

The gateway runs as in production: tokens are verified, limits counted, and every message has an Idempotency-Key, which
PostgreSQL stores durably. The bare routes publish the same records with the same producer, and run the same SQL. One
ratio for each kind of request, of each pair of turns; the last line is the least of the three.
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import orjson

from services.database.engine import asyncpg_url
from services.local.processes import ChildProcess, free_port, wait_for_port
from tests.benchmarks.bare_gateway import LISTED, PAGE, USER
from tests.benchmarks.queries import until_ready
from tests.benchmarks.rig import Rig, cpu_seconds, run_json, running_rig, say
from tests.benchmarks.seeding import Seed, seed
from tests.integration.gateway import SECRET, token

RUN_GATEWAY = "import sys; from services.api_gateway.app import main; sys.exit(main())"
NO_BOUND = "1000000000"
SESSIONS = 50_000
READ = 1_000
"""Sessions of the user that are read in turn."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, and how many are made in a turn."""

    name: str
    requests: int
    options: tuple[str, ...]


@dataclass(slots=True)
class Turns:
    """What one side did with one kind of request, turn by turn."""

    per_second: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        rate, p50, p99, used = (statistics.median(v) for v in (self.per_second, self.p50_ms, self.p99_ms, self.cpu_us))
        return f"{rate:7.0f}/s  p50 {p50:5.1f}  p99 {p99:6.1f} ms  {used:5.0f} µs CPU each"


@dataclass(frozen=True, slots=True)
class Side:
    """A server that is measured."""

    name: str
    url: str
    process: ChildProcess
    turns: dict[str, Turns] = field(default_factory=dict)

    def take_turn(self, kind: Kind, connections: int, share: float = 1.0) -> None:
        count = int(kind.requests * share)
        common = ["--url", self.url, "--token", token(USER, exp=time.time() + 3600), "--connections", str(connections)]
        used = cpu_seconds(self.process)
        told = orjson.loads(run_json("tests.benchmarks.http_load", *kind.options, *common, "--requests", str(count)))
        used = cpu_seconds(self.process) - used
        if told["refused"]:
            raise SystemExit(f"The {self.name} answered {told['refused']} to some {kind.name}.")
        if share == 1.0:
            turns = self.turns.setdefault(kind.name, Turns())
            turns.cpu_us.append(used / count * 1e6)
            for name in ("per_second", "p50_ms", "p99_ms"):
                getattr(turns, name).append(told[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--kinds", default="messages,sessions,lists", help="which to measure")
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="embedded")
    options = parser.parse_args()
    with running_rig(options.broker, fsync=True) as rig:
        kinds = [kind for kind in asyncio.run(prepared(rig)) if kind.name in options.kinds.split(",")]
        ports = free_port(), free_port()
        with (
            rig.process("bare", "-m", "tests.benchmarks.bare_gateway", str(ports[0]), **environment(rig)) as bare,
            rig.process("gateway", "-c", RUN_GATEWAY, **environment(rig, GATEWAY_PORT=str(ports[1]))) as gateway,
        ):
            sides = [Side("bare route", f"http://127.0.0.1:{ports[0]}", bare)]
            sides.append(Side("gateway", f"http://127.0.0.1:{ports[1]}", gateway))
            wait_for_port(bare, ports[0], timeout_seconds=15)
            asyncio.run(until_ready(sides[1].url))
            for number in range(options.rounds + 1):
                say(f"Round {number} of {options.rounds}" if number else "Warming up")
                for kind in kinds:
                    for side in sides:
                        side.take_turn(kind, options.connections, 1.0 if number else 0.5)
    report(rig, options.connections, kinds, *sides)


async def prepared(rig: Rig) -> list[Kind]:
    """Fill the database; return what is to be asked for."""
    await seed(rig.database_url, Seed(SESSIONS, datetime.now(UTC), rollups=False))
    connection = await asyncpg.connect(asyncpg_url(rig.database_url))
    found = await connection.fetch(
        'SELECT "sessionId" AS id FROM chat_sessions WHERE "userId" = $1 ORDER BY random() LIMIT $2', USER, READ
    )
    await connection.close()
    sessions = asked(rig.directory / "sessions", [f"/api/chat-sessions/{row['id']}" for row in found])
    lists = asked(rig.directory / "lists", [f"/api/chat-sessions?status={LISTED}&limit={PAGE.limit}"])
    return [
        Kind("messages", 6_000, ("message",)),
        Kind("sessions", 6_000, ("read", "--paths", sessions)),
        Kind("lists", 1_000, ("read", "--paths", lists)),
    ]


def asked(path: Path, paths: list[str]) -> str:
    path.write_text("\n".join(paths))
    return str(path)


def environment(rig: Rig, **more: str) -> dict[str, str]:
    """The settings of a process; limits are counted, and keep nobody out."""
    limits = dict.fromkeys(("RATE_LIMIT_MESSAGES", "RATE_LIMIT_PERSONA", "RATE_LIMIT_READS"), NO_BOUND)
    return {
        **rig.client_settings,
        **limits,
        "KAFKA_BOOTSTRAP_SERVERS": rig.settings.kafka_bootstrap_servers,
        "DATABASE_URL": rig.database_url,
        "JWT_SECRET": SECRET,
        **more,
    }


def report(rig: Rig, connections: int, kinds: list[Kind], bare: Side, gateway: Side) -> None:
    print(f"{connections} connections, {rig.broker}, PostgreSQL with fsync; medians of the turns")
    least = []
    for kind in kinds:
        ours, theirs = gateway.turns[kind.name], bare.turns[kind.name]
        ratios = [one / other for one, other in zip(ours.per_second, theirs.per_second, strict=True)]
        print(f"{kind.name:<9} gateway     {ours}")
        print(f"{'':<9} bare route  {theirs}")
        print(f"{kind.name} ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        least.append(statistics.median(ratios))
    print(f"gateway ratio {min(least):.2f}")


if __name__ == "__main__":
    main()
