"""`make bench-neighbours`: a persona that answers in 50 ms, alone and beside one that hangs, in turns.

The persona that hangs gets as many messages as the other, in conversations of its own on the same partitions.
"""

import argparse
import asyncio
import itertools
import statistics

import uvloop
from aiokafka import AIOKafkaConsumer

from services.contracts.codec import decode
from services.contracts.events import WebhookFailed, WebhookSucceeded
from tests.benchmarks.rig import Rig, bench_messages, running_rig, say
from tests.integration.dispatching import add_persona

CONVERSATIONS = 40
"""Of the one that answers: so few that its 50 ms bound it, and not the machine."""
HUNG_CONVERSATIONS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=4_000, help="of each persona in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    options = parser.parse_args()
    with running_rig(options.broker) as rig, rig.webhook(answer_itself=True) as (url, _):
        asyncio.run(add_persona(rig.database_url, "quick", f"{url}/slow"))
        uvloop.run(turn(rig, url, options.messages // 4, beside=False))
        alone, beside, ended = [], [], []
        for number in range(options.rounds):
            say(f"Round {number + 1} of {options.rounds}")
            alone.append(uvloop.run(turn(rig, url, options.messages, beside=False))[0])
            per_second, kinds = uvloop.run(turn(rig, url, options.messages, beside=True))
            beside.append(per_second)
            ended.append(kinds)
    print(f"alone              {statistics.median(alone):8.0f} messages/s")
    print(f"beside a hung one  {statistics.median(beside):8.0f} messages/s")
    print(f"the hung one's, by the time that the others had ended: {ended[-1]}")
    ratios = [one / other for one, other in zip(beside, alone, strict=True)]
    print(f"neighbours ratio {statistics.median(ratios):.2f}")


async def turn(rig: Rig, url: str, count: int, *, beside: bool) -> tuple[float, dict[str, int]]:
    """Return replies a second of the persona that answers, and what the one that hangs was told meanwhile."""
    quick = bench_messages(count, CONVERSATIONS, "quick")
    hanging = bench_messages(count, HUNG_CONVERSATIONS, "hang", prefix="h") if beside else []
    messages = [m for pair in itertools.zip_longest(quick, hanging) for m in pair if m is not None]
    await rig.publish(messages)
    await add_persona(rig.database_url, "hang", f"{url}/hang")
    async with rig.results() as reader:
        with rig.dispatcher():
            outcome = await until_replied(reader, count)
            # So that the next turn begins with nothing.
            await add_persona(rig.database_url, "hang", f"{url}/now")
            await until_ended(reader, len(hanging) - sum(outcome[1].values()))
    return outcome


async def until_replied(reader: AIOKafkaConsumer, count: int) -> tuple[float, dict[str, int]]:
    loop, replied, first, began = asyncio.get_running_loop(), 0, 0, 0.0
    kinds: dict[str, int] = {}
    async with asyncio.timeout(180):
        while replied < count:
            for record in itertools.chain(*(await reader.getmany(timeout_ms=100)).values()):
                event = decode(record.topic, record.headers, record.value)
                if isinstance(event, WebhookSucceeded):
                    replied += 1
                elif isinstance(event, WebhookFailed):
                    kinds[event.failure_kind.value] = kinds.get(event.failure_kind.value, 0) + 1
            if not first and replied >= count / 10:
                first, began = replied, loop.time()
    return (replied - first) / (loop.time() - began), kinds


async def until_ended(reader: AIOKafkaConsumer, left: int) -> None:
    async with asyncio.timeout(180):
        while left > 0:
            for record in itertools.chain(*(await reader.getmany(timeout_ms=100)).values()):
                left -= isinstance(decode(record.topic, record.headers, record.value), WebhookSucceeded | WebhookFailed)


if __name__ == "__main__":
    main()
