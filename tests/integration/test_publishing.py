"""Many records at once on a real broker: all of them, in order, in as many batches as they need."""

from services.contracts import Record
from services.runtime.kafka import MAX_BATCH_BYTES, publish_batches
from tests.integration.kafka_log import fresh_name, make_topics, producer, read_all


async def test_records_of_several_batches_keep_their_partition_and_order(broker: str) -> None:
    topic = fresh_name("topic")
    await make_topics(broker, [topic], partitions=2)
    size = MAX_BATCH_BYTES // 10

    def records(partition: int, count: int) -> list[Record]:
        return [Record(topic, b"%03d" % n + bytes(size), b"k%d" % partition, [("n", b"%d" % n)]) for n in range(count)]

    sent = {0: records(0, 25), 1: records(1, 3)}
    largest = Record(topic, bytes(2 * MAX_BATCH_BYTES), b"k1", [])
    sent[1].append(largest)
    async with producer(broker) as client:
        await publish_batches(client, topic, sent)
    found = await read_all(broker, topic)
    for partition, expected in sent.items():
        told = [Record(topic, r.value, r.key, list(r.headers)) for r in found if r.partition == partition]
        assert told == expected
