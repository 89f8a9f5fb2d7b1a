"""A bare loop from Kafka to webhook to Kafka: no order, no retries, no limits, no offsets, nothing decoded.

What the fastest consumer, client and producer that we know take by themselves: the yardstick of `make bench-latency`.
"""

import asyncio
import sys

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord
from pyreqwest.client import Client, ClientBuilder

from services.contracts.codec import header
from services.contracts.topics import MESSAGES, RESULTS


async def main() -> None:
    bootstrap, url = sys.argv[1:]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, fetch_max_wait_ms=50)
    await producer.start()
    await consumer.start()
    partitions = [TopicPartition(MESSAGES.name, number) for number in range(MESSAGES.partitions)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    tasks: set[asyncio.Task[None]] = set()
    async with ClientBuilder().no_proxy().build() as client:
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    task = asyncio.create_task(pass_on(client, producer, url, record))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)


async def pass_on(client: Client, producer: AIOKafkaProducer, url: str, record: "ConsumerRecord[bytes, bytes]") -> None:
    session_id = header(record.headers, "ce_subject") or ""
    response = await client.post(url).header("webhook-id", session_id).body_bytes(record.value or b"").build().send()
    answer = bytes(await response.bytes())
    headers = [("ce_subject", session_id.encode())]
    await (await producer.send(RESULTS.name, answer, key=record.key, headers=headers))


if __name__ == "__main__":
    uvloop.run(main())
