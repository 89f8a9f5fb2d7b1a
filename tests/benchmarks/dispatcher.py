"""`make bench-dispatcher`: one dispatcher, from messages in Kafka to acknowledged results, beside bare HTTP clients.

The webhook is nginx where that is installed, else a server of our own; the broker is Apache Kafka where Java and Maven
are, else the embedded one. All take turns on the same machine, with as many calls in flight: a bare loop of the fastest
client, the dispatcher, and bare paths, which take the same messages through a client and do nothing else for them.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import AbstractContextManager

import orjson
import uvloop

from services.local.processes import ChildProcess
from tests.benchmarks.rig import Rig, bench_messages, run_json, running_rig, say, until_told
from tests.integration.dispatching import add_persona

BARE = "tests.benchmarks.bare"
CLIENTS = ("aiohttp", "pyreqwest")
CONVERSATIONS = 2_000
IN_FLIGHT = 200
MAX_CALLS = IN_FLIGHT * 9 // 8
"""One persona alone leaves a ninth of the slots free."""

Turn = tuple[float, float]
"""Messages a second, and CPU microseconds each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    options = parser.parse_args()
    loops: list[float] = []
    turns: dict[str, list[Turn]] = {"dispatcher": [], **{f"{client} bare path": [] for client in CLIENTS}}
    with running_rig(options.broker) as rig, rig.webhook() as (url, webhook):
        asyncio.run(add_persona(rig.database_url, "bench", f"{url}/now"))
        say(f"{rig.broker}, webhook: {webhook}. Warming up")
        bare_loop("pyreqwest", url, 5_000)
        take_turns(rig, url, options.messages // 4)
        for number in range(options.rounds):
            say(f"Round {number + 1} of {options.rounds}")
            loops.append(bare_loop("pyreqwest", url, 2 * options.messages)["per_second"])
            for name, turn in take_turns(rig, url, options.messages).items():
                turns[name].append(turn)
        beside = {"aiohttp": bare_loop("aiohttp", url, options.messages), "httpx": bare_loop("httpx", url, 1_000)}
    print(f"{options.messages:,} messages a round, {IN_FLIGHT} in flight, {rig.broker}, webhook: {webhook}")
    report(loops, beside, turns)


def report(loops: list[float], beside: dict[str, dict[str, float]], turns: dict[str, list[Turn]]) -> None:
    """Print the rates, and what each is of the loop in its own round; last of all the dispatcher's."""
    print(f"{'pyreqwest bare loop':<20} {statistics.median(loops):8.0f} requests/s")
    for client, figures in beside.items():
        name = f"{client} bare loop"
        print(f"{name:<20} {figures['per_second']:8.0f} requests/s  {figures['cpu_us']:6.0f} µs CPU each")
    ratios = {}
    for name, taken in turns.items():
        per_second, cpu_us = (statistics.median(values) for values in zip(*taken, strict=True))
        ratios[name] = statistics.median(turn[0] / loop for turn, loop in zip(taken, loops, strict=True))
        print(f"{name:<20} {per_second:8.0f} messages/s  {cpu_us:6.0f} µs CPU each  {ratios[name]:.2f} of the first")
    print(f"dispatcher ratio {ratios['dispatcher']:.2f}")


def bare_loop(client: str, url: str, requests: int) -> dict[str, float]:
    arguments = [client, f"{url}/now", "--requests", str(requests), "--in-flight", str(IN_FLIGHT)]
    figures: dict[str, float] = orjson.loads(run_json("tests.benchmarks.clients", *arguments))
    return figures


def take_turns(rig: Rig, url: str, count: int) -> dict[str, Turn]:
    """Let the dispatcher and then each bare path work off the same `count` waiting messages."""
    since = int(time.time() * 1000)
    asyncio.run(rig.publish(bench_messages(count, CONVERSATIONS)))
    turns = {"dispatcher": uvloop.run(told_by(rig, rig.dispatcher(DISPATCHER_MAX_CALLS=str(MAX_CALLS)), count))}
    for client in CLIENTS:
        options = ["--client", client, "--in-flight", str(IN_FLIGHT), "--since", str(since)]
        path = rig.process("bare", "-m", BARE, rig.settings.kafka_bootstrap_servers, f"{url}/now", *options)
        turns[f"{client} bare path"] = uvloop.run(told_by(rig, path, count))
    return turns


async def told_by(rig: Rig, process: AbstractContextManager[ChildProcess], count: int) -> Turn:
    async with rig.results() as reader:
        with process as child:
            return await until_told(reader, count, child)


if __name__ == "__main__":
    main()
