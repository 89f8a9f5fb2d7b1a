"""`make bench-dispatcher`: one dispatcher, from messages in Kafka to acknowledged results, beside bare HTTP clients.

The webhook is nginx where that is installed, else a server of our own; the broker is Apache Kafka where Java and Maven
are, else the embedded one. Bare loops and dispatcher take turns on the same machine, with as many calls in flight.
"""

import argparse
import asyncio
import statistics

import orjson
import uvloop

from tests.benchmarks.rig import (
    Rig,
    bench_messages,
    run_json,
    running_rig,
    say,
    until_told,
)
from tests.integration.dispatching import add_persona

CONVERSATIONS = 2_000
IN_FLIGHT = 200
MAX_CALLS = IN_FLIGHT * 9 // 8
"""One persona alone leaves a ninth of the slots free."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    options = parser.parse_args()
    bare, dispatched, used = [], [], []
    with running_rig(options.broker) as rig, rig.webhook() as (url, webhook):
        asyncio.run(add_persona(rig.database_url, "bench", f"{url}/now"))
        say(f"{rig.broker}, webhook: {webhook}. Warming up")
        bare_loop("pyreqwest", url, 5_000)
        uvloop.run(dispatch(rig, options.messages // 4))
        for number in range(options.rounds):
            say(f"Round {number + 1} of {options.rounds}")
            bare.append(bare_loop("pyreqwest", url, 2 * options.messages)["per_second"])
            per_second, cpu_us = uvloop.run(dispatch(rig, options.messages))
            dispatched.append(per_second)
            used.append(cpu_us)
        beside = {"aiohttp": bare_loop("aiohttp", url, options.messages), "httpx": bare_loop("httpx", url, 1_000)}
    print(f"{options.messages:,} messages a round, {IN_FLIGHT} in flight, {rig.broker}, webhook: {webhook}")
    print(
        f"dispatcher      {statistics.median(dispatched):8.0f} messages/s  {statistics.median(used):6.0f} µs CPU each"
    )
    print(f"pyreqwest bare  {statistics.median(bare):8.0f} requests/s")
    for client, figures in beside.items():
        print(f"{client:<10} bare {figures['per_second']:8.0f} requests/s  {figures['cpu_us']:6.0f} µs CPU each")
    ratios = [one / other for one, other in zip(dispatched, bare, strict=True)]
    print(f"dispatcher ratio {statistics.median(ratios):.2f}")


def bare_loop(client: str, url: str, requests: int) -> dict[str, float]:
    arguments = [client, f"{url}/now", "--requests", str(requests), "--in-flight", str(IN_FLIGHT)]
    figures: dict[str, float] = orjson.loads(run_json("tests.benchmarks.clients", *arguments))
    return figures


async def dispatch(rig: Rig, count: int) -> tuple[float, float]:
    """Let one dispatcher work off `count` waiting messages; return messages a second, and CPU microseconds each."""
    await rig.publish(bench_messages(count, CONVERSATIONS))
    async with rig.results() as reader:
        with rig.dispatcher(DISPATCHER_MAX_CALLS=str(MAX_CALLS)) as child:
            return await until_told(reader, count, child)


if __name__ == "__main__":
    main()
