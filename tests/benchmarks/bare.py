"""A bare path from Kafka to webhook to Kafka: no order, no retries, no limits, no offsets, nothing decoded.

What consumer, client and producer take by themselves, for `make bench-latency` and `make bench-dispatcher`.
"""

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord
from pyreqwest.client import ClientBuilder

from services.contracts.codec import header
from services.contracts.topics import MESSAGES, RESULTS
from services.runtime.kafka import MAX_BATCH_BYTES

Call = Callable[[str, bytes], Awaitable[bytes]]
"""Sends a session's message; returns the answer's body."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("url")
    parser.add_argument("--client", choices=["pyreqwest", "aiohttp"], default="pyreqwest")
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--since", type=int, help="messages written from then on (Unix ms), not those to come alone")
    options = parser.parse_args()
    producer = AIOKafkaProducer(
        bootstrap_servers=options.bootstrap, acks="all", linger_ms=0, max_batch_size=MAX_BATCH_BYTES
    )
    consumer = AIOKafkaConsumer(bootstrap_servers=options.bootstrap, fetch_max_wait_ms=50)
    await producer.start()
    await consumer.start()
    await take_position(consumer, options.since)
    clients = {"pyreqwest": with_pyreqwest, "aiohttp": with_aiohttp}
    async with clients[options.client](options.url) as call:
        await pass_all_on(consumer, producer, call, options.in_flight)


async def take_position(consumer: AIOKafkaConsumer, since: int | None) -> None:
    partitions = [TopicPartition(MESSAGES.name, number) for number in range(MESSAGES.partitions)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    if since is not None:
        for partition, found in (await consumer.offsets_for_times(dict.fromkeys(partitions, since))).items():
            if found is not None:
                consumer.seek(partition, found.offset)


@contextlib.asynccontextmanager
async def with_pyreqwest(url: str) -> AsyncIterator[Call]:
    async with ClientBuilder().no_proxy().build() as client:

        async def call(session_id: str, body: bytes) -> bytes:
            response = await client.post(url).header("webhook-id", session_id).body_bytes(body).build().send()
            return bytes(await response.bytes())

        yield call


@contextlib.asynccontextmanager
async def with_aiohttp(url: str) -> AsyncIterator[Call]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def call(session_id: str, body: bytes) -> bytes:
            async with client.post(url, data=body, headers={"webhook-id": session_id}) as response:
                return await response.read()

        yield call


async def pass_all_on(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, call: Call, in_flight: int) -> None:
    tasks: set[asyncio.Task[None]] = set()
    slots = asyncio.Semaphore(in_flight)

    async def pass_on(record: "ConsumerRecord[bytes, bytes]") -> None:
        session_id = header(record.headers, "ce_subject") or ""
        try:
            answer = await call(session_id, record.value or b"")
        finally:
            slots.release()
        headers = [("ce_subject", session_id.encode())]
        await (await producer.send(RESULTS.name, answer, key=record.key, headers=headers))

    while True:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                await slots.acquire()
                task = asyncio.create_task(pass_on(record))
                tasks.add(task)
                task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    uvloop.run(main())
