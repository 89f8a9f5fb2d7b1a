"""`make bench-gateway`: messages accepted, sessions and lists read by one gateway, beside bare routes, in turns.

The gateway runs as in production: tokens are verified, limits counted, and every message has an Idempotency-Key, which
PostgreSQL stores durably. The bare routes publish the same records with the same producer, and run the same SQL; they
are served twice: by granian, as bare Starlette is commonly measured, and by the gateway's own server, which is up to
twice as fast. A ratio to each for each kind of request, of each pair of turns; at last the least of each.
"""

import argparse
import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Iterator
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
BARE = "tests.benchmarks.bare_gateway"
ON_GRANIAN = "Starlette on granian"
ON_OUR_SERVER = "Starlette on the gateway's server"
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
        with contextlib.ExitStack() as stack:
            sides = [stack.enter_context(side) for side in (gateway(rig), bare(rig), bare_on_granian(rig))]
            for number in range(options.rounds + 1):
                say(f"Round {number} of {options.rounds}" if number else "Warming up")
                for kind in kinds:
                    for side in sides:
                        side.take_turn(kind, options.connections, 1.0 if number else 0.5)
    report(rig, options.connections, kinds, *sides)


@contextlib.contextmanager
def gateway(rig: Rig) -> Iterator[Side]:
    port = free_port()
    with rig.process("gateway", "-c", RUN_GATEWAY, **environment(rig, GATEWAY_PORT=str(port))) as child:
        side = Side("gateway", f"http://127.0.0.1:{port}", child)
        asyncio.run(until_ready(side.url))
        yield side


@contextlib.contextmanager
def bare(rig: Rig) -> Iterator[Side]:
    port = free_port()
    with rig.process("bare", "-m", BARE, str(port), **environment(rig)) as child:
        wait_for_port(child, port, timeout_seconds=15)
        yield Side(ON_OUR_SERVER, f"http://127.0.0.1:{port}", child)


@contextlib.contextmanager
def bare_on_granian(rig: Rig) -> Iterator[Side]:
    port = free_port()
    served = ("--interface", "asgi", "--loop", "uvloop", "--no-access-log", "--log-level", "error", "--factory")
    command = ("-m", "granian", *served, "--host", "127.0.0.1", "--port", str(port), f"{BARE}:on_its_own")
    with rig.process("granian", *command, **environment(rig)) as child:
        wait_for_port(child, port, timeout_seconds=15)
        yield Side(ON_GRANIAN, f"http://127.0.0.1:{port}", child)


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


def report(rig: Rig, connections: int, kinds: list[Kind], gateway: Side, *bare: Side) -> None:
    print(f"{connections} connections, {rig.broker}, PostgreSQL with fsync; medians of the turns")
    least = {side.name: math.inf for side in bare}
    for kind in kinds:
        print(f"{kind.name:<9} {gateway.name:<33} {gateway.turns[kind.name]}")
        for side in bare:
            ours, theirs = gateway.turns[kind.name].per_second, side.turns[kind.name].per_second
            ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
            print(f"{'':<9} {side.name:<33} {side.turns[kind.name]}  ratio {ratio:.2f}")
            least[side.name] = min(least[side.name], ratio)
    print(f"at least {least[ON_OUR_SERVER]:.2f} of {ON_OUR_SERVER}, and of {ON_GRANIAN}:")
    print(f"gateway ratio {least[ON_GRANIAN]:.2f}")


if __name__ == "__main__":
    main()
