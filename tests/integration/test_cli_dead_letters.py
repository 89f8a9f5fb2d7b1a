"""Dead letters are listed with their reasons and replayed byte for byte to the group that could not use them."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from services.contracts import BadRecord
from services.contracts.topics import DISPATCHER_GROUP, MESSAGES, TRACKER_GROUP
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import REPLAY_GROUP_HEADER, DeadLetter, DeadLetters
from services.runtime.kafka import build_producer
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from tests.integration.kafka_log import settings_for

# The last one bears the name of a header that dead letters add.
HEADERS = (("ce_type", b"chat.MessageSent.v1"), ("nothing", None), ("dlq-topic", b"not this one"))


@pytest.fixture
def kafka(empty_broker: str) -> KafkaSettings:
    """A broker of this test's own: its dead letters are all there are."""
    return settings_for(empty_broker)


def run(kafka: KafkaSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.defpath,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.kafka_bootstrap_servers,
        "KAFKA_IDEMPOTENCE": str(kafka.kafka_idempotence),
    }
    command = [sys.executable, "-m", "services.cli", "dead-letters", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


async def bury(
    kafka: KafkaSettings,
    value: bytes,
    offset: int,
    *,
    group: str = TRACKER_GROUP,
    headers: Sequence[tuple[str, bytes | None]] = HEADERS,
) -> None:
    producer: AIOKafkaProducer = build_producer(kafka)
    await producer.start()
    record = ConsumerRecord(
        topic=MESSAGES.name,
        partition=3,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=b"conversation",
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(headers),
    )
    letter = DeadLetter(record, BadRecord("malformed", "The body is no JSON."))
    await DeadLetters(producer, group, ConsumerMetrics(CollectorRegistry())).publish([letter])
    await producer.stop()


async def messages(kafka: KafkaSettings) -> list[ConsumerRecord[bytes, bytes]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.kafka_bootstrap_servers)
    await consumer.start()
    place = TopicPartition(MESSAGES.name, 3)
    consumer.assign([place])
    consumer.seek(place, 0)
    found: list[ConsumerRecord[bytes, bytes]] = []
    while await consumer.position(place) < (await consumer.end_offsets([place]))[place]:
        found += (await consumer.getmany(timeout_ms=200)).get(place, [])
    await consumer.stop()
    return found


async def test_letters_are_listed_and_a_chosen_one_is_replayed(kafka: KafkaSettings) -> None:
    await create_topics(kafka)
    await bury(kafka, b"{first", 7)
    await bury(kafka, b"{second\x00", 8)
    listed = run(kafka, "list")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert "from chat.messages.v1 partition 3 offset 7  malformed: The body is no JSON." in lines[0]
    assert lines[-1] == "2 of 2 dead letters."
    assert run(kafka, "list", "--group", "webhook-dispatcher").stdout == "0 of 0 dead letters.\n"

    second = lines[1].split()[0]
    replayed = run(kafka, "replay", second)
    assert (replayed.returncode, replayed.stdout) == (
        0,
        "1 record replayed; if it fails again, it appears as a new letter.\n",
    ), replayed.stderr
    (record,) = await messages(kafka)
    assert (record.key, record.value) == (b"conversation", b"{second\x00")
    assert record.headers == (*HEADERS, (REPLAY_GROUP_HEADER, TRACKER_GROUP.encode()))


async def test_what_was_replayed_is_left_out_until_it_fails_again(kafka: KafkaSettings) -> None:
    await create_topics(kafka)
    await bury(kafka, b"{first", 7)
    await bury(kafka, b"{second", 8)
    replayed = run(kafka, "replay", "--all")
    assert replayed.stdout == "2 records replayed; those that fail again appear as new letters.\n", replayed.stderr
    listed = run(kafka, "list").stdout.splitlines()
    assert listed == ["0 of 0 dead letters.", "2 more were replayed already: --replayed shows them, too."]
    assert run(kafka, "replay", "--all").stdout == "No dead letter is left to replay.\n"
    assert len(await messages(kafka)) == 2

    (again, _) = await messages(kafka)
    await bury(kafka, again.value, again.offset, headers=again.headers)
    (letter, count, rest) = run(kafka, "list").stdout.splitlines()
    assert letter.endswith("malformed: The body is no JSON.  (failed again after a replay)")
    assert (count, rest) == ("1 of 1 dead letter.", "2 more were replayed already: --replayed shows them, too.")
    assert run(kafka, "list", "--replayed").stdout.splitlines()[-1] == "3 of 3 dead letters."
    # A letter that is named is replayed however often it was.
    first = run(kafka, "list", "--replayed").stdout.split()[0]
    assert run(kafka, "replay", first).returncode == 0
    assert len(await messages(kafka)) == 3


async def test_a_record_that_two_groups_cannot_use_is_known_as_one(kafka: KafkaSettings) -> None:
    await create_topics(kafka)
    subject = [("ce_subject", b"the-session")]
    await bury(kafka, b"{", 7, headers=subject)
    await bury(kafka, b"{", 7, group=DISPATCHER_GROUP, headers=subject)
    *letters, count = run(kafka, "list").stdout.splitlines()
    assert count == "2 of 2 dead letters of 1 record."
    ids = [letter.split()[0] for letter in letters]
    assert all("  key conversation  session the-session  from chat.messages.v1 " in letter for letter in letters)
    for letter, other in zip(letters, reversed(ids), strict=True):
        assert letter.endswith(f"  (the same record as {other})")


async def test_mistakes_are_one_line(kafka: KafkaSettings) -> None:
    for arguments, told in (
        (("replay",), "Give the ids"),
        (("replay", "no/1"), "There is no dead letter no/1"),
        (
            ("list", "--group", "nope"),
            "There is no consumer group nope: the groups are webhook-dispatcher, session-tracker and session-sweeps.",
        ),
    ):
        done = run(kafka, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
