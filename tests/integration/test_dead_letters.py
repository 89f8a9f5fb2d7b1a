"""Dead letters on a real broker: what goes in is what comes out, beside the reason."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from services.contracts import UndecodableRecord
from services.contracts.topics import MAX_RECORD_BYTES, dead_letter_topic
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import OMITTED_HEADER, DeadLetter, DeadLetters, meant_for_another_group
from services.runtime.kafka import NotAcknowledged
from services.runtime.records import RawRecord
from tests.integration.kafka_log import Sent, fresh_name, make_topics, producer, read_all, send

GROUP = "some-group"


@pytest.fixture
async def topic(broker: str) -> str:
    name = fresh_name("topic")
    await make_topics(broker, [name, dead_letter_topic(name, GROUP).name])
    return name


@pytest.fixture
async def client(broker: str) -> AsyncIterator[AIOKafkaProducer]:
    async with producer(broker) as running:
        yield running


def because(record: RawRecord) -> DeadLetter:
    return DeadLetter(record, UndecodableRecord("malformed", "Ein Grund: größer als ☂."))


async def test_a_dead_letter_is_the_record_byte_for_byte_beside_the_reason(
    broker: str, topic: str, client: AIOKafkaProducer
) -> None:
    bad = [
        Sent(b"{\xff\x00", key=b"\x00key", headers=[("ce_type", None), ("same", b"1"), ("same", b"\xfe")]),
        Sent(None, key=b"only a key"),
        Sent(b"", key=None, headers=[("", b"")]),
        Sent(None, key=None, headers=[("ce_type", b"x")], partition=0),
        Sent(b"x" * (MAX_RECORD_BYTES - 2048), key=b"large"),
    ]
    await send(broker, topic, bad)
    records = await read_all(broker, topic)
    registry = CollectorRegistry()
    letters = DeadLetters(client, GROUP, ConsumerMetrics(registry))

    await letters.publish([because(record) for record in records])

    dead = await read_all(broker, dead_letter_topic(topic, GROUP).name)
    by_offset = {int(dict(letter.headers)["dlq-offset"] or b""): letter for letter in dead}
    assert len(by_offset) == len(dead) == len(records)
    for record in records:
        letter = by_offset[record.offset]
        assert (letter.key, letter.value) == (record.key, record.value)
        assert letter.headers == (
            *record.headers,
            ("dlq-topic", topic.encode()),
            ("dlq-partition", b"0"),
            ("dlq-offset", str(record.offset).encode()),
            ("dlq-group", GROUP.encode()),
            ("dlq-reason", b"malformed"),
            ("dlq-error", "Ein Grund: größer als ☂.".encode()),
        )
    counted = {"group": GROUP, "topic": topic, "reason": "malformed"}
    assert registry.get_sample_value("chat_dead_letters_total", counted) == len(bad)


async def test_a_record_too_large_for_any_topic_leaves_its_place_and_reason(
    broker: str, topic: str, client: AIOKafkaProducer
) -> None:
    size = 3 * MAX_RECORD_BYTES
    compressing = AIOKafkaProducer(bootstrap_servers=broker, compression_type="gzip", max_request_size=2 * size)
    await compressing.start()
    try:
        await compressing.send_and_wait(topic, b"0" * size)
    finally:
        await compressing.stop()
    (record,) = await read_all(broker, topic)

    await DeadLetters(client, GROUP, ConsumerMetrics(CollectorRegistry())).publish([because(record)])

    (letter,) = await read_all(broker, dead_letter_topic(topic, GROUP).name)
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (None, None)
    assert headers[OMITTED_HEADER] == f"{size} bytes".encode()
    assert (headers["dlq-topic"], headers["dlq-offset"]) == (topic.encode(), b"0")


async def test_a_letter_that_the_broker_does_not_acknowledge_is_a_passing_fault(
    broker: str, topic: str, client: AIOKafkaProducer
) -> None:
    await send(broker, topic, [Sent(b"bad")])
    (record,) = await read_all(broker, topic)
    letters = DeadLetters(client, GROUP, ConsumerMetrics(CollectorRegistry()))
    await letters.publish([because(record)])
    await client.stop()
    with pytest.raises(NotAcknowledged):
        await letters.publish([because(record)])


async def test_a_replayed_record_is_meant_for_its_group_only(broker: str, topic: str) -> None:
    await send(broker, topic, [Sent(b"x", headers=[("replay-group", GROUP.encode())]), Sent(b"y"), Sent(b"z")])
    replayed, plain, _ = await read_all(broker, topic)
    assert TopicPartition(replayed.topic, replayed.partition) == TopicPartition(topic, 0)
    assert [meant_for_another_group(replayed, group) for group in (GROUP, "another")] == [False, True]
    assert [meant_for_another_group(plain, group) for group in (GROUP, "another")] == [False, False]
