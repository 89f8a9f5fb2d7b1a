"""Dead letters are listed with their reasons, and replayed, once each and byte for byte, to who could not use them."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from services.commands.letters.deciding import drop, replay
from services.commands.letters.dispositions import Dispositions, open_dispositions
from services.commands.letters.reading import read_letters
from services.commands.letters.selection import Choice, Letter, State
from services.commands.letters.told import letter_lines, summary
from services.contracts import BadRecord
from services.contracts.topics import DISPATCHER_GROUP, MESSAGES, TRACKER_GROUP
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letter_tools import Replay
from services.runtime.dead_letters import REPLAY_GROUP_HEADER, DeadLetter, DeadLetters
from services.runtime.kafka import build_producer
from services.runtime.settings import KafkaSettings, PostgresSettings
from tests.command_line import Done, run_command
from tests.integration.kafka_log import settings_for
from tests.integration.tracker_process import connected

# The last one bears the name of a header that dead letters add.
HEADERS = (("ce_type", b"chat.MessageSent.v1"), ("nothing", None), ("dlq-topic", b"not this one"))


@dataclass(frozen=True)
class System:
    """What the command speaks to."""

    kafka: KafkaSettings
    database_url: str


@pytest.fixture
def system(bootstrap: str, postgres_url: str) -> System:
    """A broker and a database of this test's own: its dead letters are all there are."""
    return System(settings_for(bootstrap), postgres_url)


def run(system: System, *arguments: str) -> Done:
    environment = {
        "PATH": os.defpath,
        "KAFKA_BOOTSTRAP_SERVERS": system.kafka.kafka_bootstrap_servers,
        "KAFKA_IDEMPOTENCE": str(system.kafka.kafka_idempotence),
        "DATABASE_URL": system.database_url,
        "LOGNAME": "ann",
    }
    return run_command("dead-letters", *arguments, environment=environment)


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


async def stored(system: System) -> list[Letter]:
    letters, unknown = await read_letters(
        system.kafka, PostgresSettings(database_url=SecretStr(system.database_url)), Choice()
    )
    assert unknown is None
    return letters


@asynccontextmanager
async def tools(system: System) -> AsyncIterator[tuple[Dispositions, Replay]]:
    postgres = PostgresSettings(database_url=SecretStr(system.database_url))
    async with open_dispositions(postgres) as dispositions, Replay(system.kafka) as kafka:
        yield dispositions, kafka


async def audit(system: System) -> list[tuple[str, ...]]:
    async with connected(system.database_url) as rows:
        query = "SELECT \"actorKind\", actor, action, outcome, details ->> 'because' FROM audit_log ORDER BY at, id"
        return [tuple(row) for row in await rows.fetch(query)]


async def test_letters_are_listed_shown_and_a_chosen_one_is_replayed_once(system: System) -> None:
    await bury(system.kafka, b"{first", 7)
    await bury(system.kafka, b"{second\x00", 8, headers=[*HEADERS, ("ce_subject", b"the-session")])
    listed = run(system, "list")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert "  key conversation  malformed: The body is no JSON." in lines[0]
    assert lines[-1] == "2 of 2 dead letters."
    second = lines[1].split()[0]
    shown = run(system, "show", second, "--body").stdout
    assert {"Type          chat.MessageSent.v1", "Session       the-session", "{second\\x00"} <= set(shown.splitlines())

    replayed = run(system, "replay", second)
    told = "1 record replayed; if it fails again, it appears as a new letter.\n"
    assert (replayed.returncode, replayed.stdout) == (0, told), replayed.stderr
    again = run(system, "replay", second)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{second} is left as it is: replayed by ann at ")
    assert (
        run(system, "list").stdout.splitlines()[-1] == "1 more was replayed or dropped already: --done shows it, too."
    )

    (record,) = await messages(system.kafka)
    assert (record.key, record.value) == (b"conversation", b"{second\x00")
    *own, group, replay_of = record.headers
    assert (tuple(own[:3]), group) == (HEADERS, (REPLAY_GROUP_HEADER, TRACKER_GROUP.encode()))
    assert replay_of[1].startswith(f"{second}@".encode())
    assert await audit(system) == [("admin", "ann", "dead-letter.replay", "replayed", None)]

    # It fails again: a letter of its own.
    await bury(system.kafka, record.value, record.offset, headers=record.headers)
    assert [letter.stored.failed_again for letter in await stored(system)] == [False, False, True]


async def test_what_is_dropped_stays_in_kafka_and_may_still_be_replayed(system: System) -> None:
    await bury(system.kafka, b"{first", 7)
    await bury(system.kafka, b"{second", 8)
    assert run(system, "drop", "--all").returncode != 0
    assert run(system, "drop", "--all", "--because", " ").stderr.startswith("Error: Say why")
    dropped = run(system, "drop", "--all", "--type", "MessageSent", "--since", "1h", "--because", "test data")
    assert dropped.stdout == "2 dead letters dropped: nothing was deleted, and nobody is reminded of it.\n", (
        dropped.stderr
    )
    assert run(system, "replay", "--all").stdout == "No dead letter is left to replay.\n"
    first, second = await stored(system)
    assert await messages(system.kafka) == []
    async with tools(system) as (dispositions, kafka):
        assert len((await drop([first], dispositions, "bob", "x")).before) == 1
        assert len((await replay([first], dispositions, kafka, "bob")).decided) == 1
        assert len((await drop([second], dispositions, "bob", "x")).before) == 1
    assert len(await messages(system.kafka)) == 1
    assert [letter.state for letter in await stored(system)] == [State.REPLAYED, State.DROPPED]
    assert await audit(system) == [
        ("admin", "ann", "dead-letter.drop", "dropped", "test data"),
        ("admin", "ann", "dead-letter.drop", "dropped", "test data"),
        ("admin", "bob", "dead-letter.replay", "replayed", None),
    ]


async def test_a_record_is_published_once_by_whoever_and_after_whatever(system: System) -> None:
    for offset in range(3):
        await bury(system.kafka, b"{", offset)
    letters = await stored(system)
    async with tools(system) as (dispositions, kafka), tools(system) as (others, other_kafka):
        # Somebody was broken off before the first was published, and after the second was.
        for letter in letters[:2]:
            assert await dispositions.claim(letter.stored, "gone")
        await kafka.publish(letters[1].stored)
        both = await asyncio.gather(
            replay(letters, dispositions, kafka, "ann"), replay(letters, others, other_kafka, "bob")
        )
    assert sorted(letter.stored.offset for done in both for letter in done.decided) == [0, 2]
    assert [letter.stored.offset for done in both for letter in done.found] == [1]
    assert sorted(letter.stored.offset for done in both for letter in done.before) == [0, 1, 2]
    assert len(await messages(system.kafka)) == 3
    assert len(await audit(system)) == 3


async def test_a_topic_that_is_made_anew_has_other_letters(system: System) -> None:
    await bury(system.kafka, b"{", 7)
    (letter,) = await stored(system)
    before = replace(letter.stored, written_at=letter.stored.written_at - timedelta(days=1))
    async with tools(system) as (dispositions, _):
        assert await dispositions.drop(before, "ann", "x")
    assert [letter.state for letter in await stored(system)] == [State.OPEN]


async def test_a_record_that_two_groups_cannot_use_is_known_as_one(system: System) -> None:
    subject = [("ce_subject", b"the-session")]
    await bury(system.kafka, b"{", 7, headers=subject)
    await bury(system.kafka, b"{", 7, group=DISPATCHER_GROUP, headers=subject)
    letters = await stored(system)
    ids = [letter.stored.letter_id for letter in letters]
    for line, other in zip(letter_lines(letters, letters), reversed(ids), strict=True):
        assert "  the-session  malformed: " in line
        assert line.endswith(f"  (same as {other.removeprefix('chat.messages.v1.')})")
        assert len(line) <= 160
    assert summary(letters) == "2 dead letters of 1 record."


async def test_mistakes_are_one_line_and_a_list_needs_no_database(system: System) -> None:
    for arguments, told in (
        (("replay",), "Give the ids"),
        (("replay", "no/1"), "There is no dead letter no/1"),
        (
            ("list", "--group", "nope"),
            "There is no consumer group nope: the groups are webhook-dispatcher, session-tracker and session-sweeps.",
        ),
        (("list", "--since", "soon"), "--since soon is neither like 24h nor like 2026-11-23T10:00."),
    ):
        done = run(system, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
    await bury(system.kafka, b"{", 7)
    away = replace(system, database_url="postgresql://nobody:secret@127.0.0.1:1/none")
    listed = run(away, "list")
    assert (listed.returncode, listed.stdout.splitlines()[-1]) == (0, "1 of 1 dead letter.")
    assert "Letters that were replayed or dropped are shown as if they were not." in listed.stderr
    refused = run(away, "replay", "--all")
    assert (refused.returncode, "secret" in refused.stderr + listed.stderr) == (1, False)
    assert await messages(system.kafka) == []
