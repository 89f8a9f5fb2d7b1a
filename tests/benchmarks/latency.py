"""`make bench-latency`: what the dispatcher adds to a call at half its load, beside a bare loop at the same rate.

Before the call: from the message's acknowledged append to the request at the webhook. After it: from the answer to
the result's arrival at a reader. Both loops take turns; the ratio is the bare loop's median of the two together over
the dispatcher's, so 1.00 would be as quick as nothing but Kafka and HTTP.
"""

import argparse
import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass, field

import httpx
import uvloop
from aiokafka import AIOKafkaConsumer

from services.contracts import encode
from services.contracts.codec import header
from services.runtime.kafka import build_producer
from tests.benchmarks.rig import Rig, bench_message, bench_messages, running_rig, say, until_told
from tests.integration.dispatching import add_persona

CONVERSATIONS = 500
KEPT_UP = 1.1
"""The last result came so soon after the last message, as a share of the time that it took to send them all."""


@dataclass(slots=True)
class Times:
    """Seconds, one of each for each message."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def median_ms(self) -> float:
        return 1000 * statistics.median(map(sum, zip(self.before, self.after, strict=True)))

    def __str__(self) -> str:
        told = []
        for name, times in (("appended → request", self.before), ("answer → result", self.after)):
            percentiles = [1000 * second for second in statistics.quantiles(times, n=100)]
            told.append(f"{name} p50 {percentiles[49]:6.1f} ms  p99 {percentiles[98]:6.1f} ms")
        return "    ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    options = parser.parse_args()
    with running_rig(options.broker) as rig, rig.webhook(answer_itself=True) as (url, _):
        asyncio.run(add_persona(rig.database_url, "bench", f"{url}/now"))
        rate = uvloop.run(full_load(rig, options.seconds / 4)) / 2
        say(f"{rig.broker}, {rate:.0f} messages/s")
        ours, bare, ratios = Times(), Times(), []
        for number in range(options.rounds):
            say(f"Round {number + 1} of {options.rounds}")
            loop = rig.process(
                "bare", "-m", "tests.benchmarks.bare", rig.settings.kafka_bootstrap_servers, f"{url}/now"
            )
            bare_turn = uvloop.run(turn(rig, loop, url, rate, options.seconds))
            our_turn = uvloop.run(turn(rig, rig.dispatcher(), url, rate, options.seconds))
            ratios.append(bare_turn.median_ms() / our_turn.median_ms())
            for total, one in ((bare, bare_turn), (ours, our_turn)):
                total.before += one.before
                total.after += one.after
    print(f"{rate:.0f} messages/s, half of what the dispatcher does here; {rig.broker}")
    print(f"dispatcher  {ours}")
    print(f"bare loop   {bare}")
    print(f"latency ratio {statistics.median(ratios):.2f}")


async def full_load(rig: Rig, seconds: float) -> float:
    """Return how many messages a second the dispatcher keeps up with, when they come one by one.

    That is less than it works off in batches once they wait, and all else here shares the machine.
    """
    with rig.dispatcher() as child:
        async with rig.results() as reader:
            await until_at_work(rig, reader)
            await rig.publish(bench_messages(8_000, CONVERSATIONS))
            rate, _ = await until_told(reader, 8_000, child)
            while True:
                began = time.perf_counter()
                await send(rig, reader, rate, seconds)
                if time.perf_counter() - began < KEPT_UP * seconds + 0.2:
                    return rate
                rate *= 0.8


async def turn(
    rig: Rig, loop: contextlib.AbstractContextManager[object], url: str, rate: float, seconds: float
) -> Times:
    """Send at a steady rate while `loop` runs."""
    with loop:
        async with rig.results() as reader:
            await until_at_work(rig, reader)
            await send(rig, reader, rate, 2.0)
            sent, told = await send(rig, reader, rate, seconds)
    async with httpx.AsyncClient(trust_env=False) as client:
        stamps = (await client.get(f"{url}/stamps", timeout=20)).json()
    times = Times()
    for session_id, appended in sent.items():
        came, answered = stamps[session_id]
        times.before.append(max(0.0, came - appended))
        times.after.append(told[session_id] - answered)
    return times


async def until_at_work(rig: Rig, reader: AIOKafkaConsumer) -> None:
    """Return once a message is answered within a second, and no more results come of what others had left."""
    async with asyncio.timeout(60):
        while True:
            message = bench_message("first")
            await rig.publish([message])
            give_up = time.monotonic() + 1
            while time.monotonic() < give_up:
                if str(message.session_id) in await told_now(reader):
                    while await told_now(reader, wait_ms=1_000):
                        pass
                    return


async def told_now(reader: AIOKafkaConsumer, wait_ms: int = 100) -> dict[str, float]:
    """Return the sessions whose results came with the next fetch, and when."""
    fetched = await reader.getmany(timeout_ms=wait_ms)
    return {
        header(record.headers, "ce_subject") or "": time.time() for records in fetched.values() for record in records
    }


async def send(
    rig: Rig, reader: AIOKafkaConsumer, rate: float, seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Return when each message was appended, and when its result was read."""
    producer = build_producer(rig.settings)
    await producer.start()
    sent: dict[str, float] = {}
    told: dict[str, float] = {}
    waiting: set[str] = set()
    count = int(rate * seconds)

    async def append(number: int) -> None:
        message = bench_message(f"c{number % CONVERSATIONS}")
        record = encode(message, source="/chat-sessions/bench")
        waiting.add(str(message.session_id))
        await (await producer.send(record.topic, record.value, key=record.key, headers=record.headers))
        sent[str(message.session_id)] = time.time()

    async def read() -> None:
        while waiting or len(sent) < count:
            now = await told_now(reader)
            waiting.difference_update(now)
            told.update(now)

    try:
        async with asyncio.timeout(60 + 3 * seconds), asyncio.TaskGroup() as group:
            group.create_task(read())
            began = time.perf_counter()
            for number in range(count):
                await asyncio.sleep(began + number / rate - time.perf_counter())
                group.create_task(append(number))
    finally:
        await producer.stop()
    return sent, told


if __name__ == "__main__":
    main()
