"""Reads dead letters back, and replays them to the group that could not use them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from services.contracts.topics import DEAD_LETTER_TOPICS
from services.runtime.dead_letters import (
    ERROR_HEADER,
    GROUP_HEADER,
    OFFSET_HEADER,
    OMITTED_HEADER,
    PARTITION_HEADER,
    REASON_HEADER,
    REPLAY_GROUP_HEADER,
    REPLAY_OF_HEADER,
    TOPIC_HEADER,
)
from services.runtime.kafka import build_producer, build_reader, read_from
from services.runtime.reachability import why_unreachable
from services.runtime.records import RawRecord, written_at
from services.runtime.settings import KafkaSettings
from services.runtime.written_since import written_since

_READ_SECONDS = 60.0
_REPLAY_HEADERS = {REPLAY_GROUP_HEADER, REPLAY_OF_HEADER}
_REPLAYED_HEADER = "dlq-replayed"
"""The one header of a note beside the letters, which says that the letter of this offset was replayed."""


class KafkaUnavailable(Exception):
    """Kafka cannot be read or written; the text says what to check."""


class NotReplayable(Exception):
    """A dead letter does not hold its record; the text says where the record is."""


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as it lies in its topic, with where it came from and why it is there."""

    letter_id: str
    """`TOPIC/OFFSET` of the dead-letter topic: names the letter as long as it is kept."""
    written_at: datetime
    topic: str
    partition: int
    offset: int
    group: str
    reason: str
    error: str
    replayed: bool
    """Whether a note beside it says that its record was published again: how it was told before there was a table."""
    failed_again: bool
    """Whether its record had been replayed already when it could not be used."""
    omitted: str | None
    """How large the record was, where it was too large to be kept here: it then can only be found at its origin."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """The headers of the original record."""

    @property
    def place(self) -> tuple[str, int, datetime]:
        """Topic, offset and time of the letter itself: names it for good, also if its topic is made anew."""
        topic, _, offset = self.letter_id.rpartition("/")
        return topic, int(offset), self.written_at

    @property
    def mark(self) -> bytes:
        """What a replayed record carries to say which letter it was."""
        return f"{self.letter_id}@{self.written_at.isoformat()}".encode()

    @property
    def event_type(self) -> str | None:
        """The record's CloudEvents type; None where it has none."""
        return self._text_of("ce_type")

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the record: the same for the letters of several groups."""
        return self.topic, self.partition, self.offset

    @property
    def subject(self) -> str | None:
        """What the record says that it is about, mostly the session; None where it does not."""
        return self._text_of("ce_subject")

    def names(self, session_id: str) -> bool:
        """Tell whether the record is about this session, or what it holds names it."""
        return self.subject == session_id or session_id.encode() in (self.value or b"")

    def _text_of(self, header: str) -> str | None:
        found = dict(self.headers).get(header)
        return None if found is None else found.decode("utf-8", "replace")


async def read_dead_letters(settings: KafkaSettings, since: datetime | None = None) -> list[StoredDeadLetter]:
    """Every dead letter that Kafka still keeps, written `since` if given, oldest first.

    Raises KafkaUnavailable if they cannot be read in a minute.
    """
    reader = build_reader(settings, client_id="chat-sessions-dead-letters")
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await reader.start()
            existing = await reader.topics()
            places = [TopicPartition(topic.name, 0) for topic in DEAD_LETTER_TOPICS if topic.name in existing]
            records = await _read_all(reader, places, since)
    except KafkaConnectionError as error:
        raise KafkaUnavailable(await why_unreachable(settings)) from error
    except (KafkaError, TimeoutError) as error:
        raise KafkaUnavailable(
            f"Kafka at {settings.kafka_bootstrap_servers} cannot be read ({error!r}): check KAFKA_BOOTSTRAP_SERVERS."
        ) from error
    finally:
        await reader.stop()
    replayed = {(record.topic, _replayed_offset(record)) for record in records}
    letters = [
        _stored(record, replayed=(record.topic, record.offset) in replayed)
        for record in records
        if _replayed_offset(record) is None
    ]
    return sorted(letters, key=lambda letter: letter.written_at)


def ensure_replayable(letters: Sequence[StoredDeadLetter]) -> None:
    """Raise NotReplayable where one of the letters does not hold its record."""
    for letter in letters:
        if letter.omitted is not None:
            raise NotReplayable(
                f"{letter.letter_id} was too large to be kept ({letter.omitted}); its record can only be had from "
                f"{letter.topic} partition {letter.partition} offset {letter.offset}. Replay the others without it."
            )


class Replay:
    """Publishes the records of dead letters again, each for its own group only; the other groups skip them.

    Every method raises KafkaUnavailable when Kafka does not do its part: whether a record is published is unknown then.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._producer = build_producer(settings)
        self._reader = build_reader(settings, client_id="chat-sessions-dead-letters")

    async def __aenter__(self) -> "Replay":
        with _unavailable():
            await self._producer.start()
            await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()
        await self._reader.stop()

    async def publish(self, letter: StoredDeadLetter) -> None:
        """Publish the letter's record and wait for it. A record that still cannot be used becomes a new letter."""
        marks = [(REPLAY_GROUP_HEADER, letter.group.encode()), (REPLAY_OF_HEADER, letter.mark)]
        # As a batch, since send() refuses a record without key and value.
        batch = self._producer.create_batch()
        batch.append(timestamp=None, key=letter.key, value=letter.value, headers=[*letter.headers, *marks])
        with _unavailable():
            await (await self._producer.send_batch(batch, letter.topic, partition=letter.partition))

    async def was_published(self, letter: StoredDeadLetter, since: datetime) -> bool:
        """Tell whether the letter's record was published again `since`; looks through what was written there since."""
        place = TopicPartition(letter.topic, letter.partition)
        with _unavailable():
            async with asyncio.timeout(_READ_SECONDS):
                records = await _read_all(self._reader, [place], since)
        return any((REPLAY_OF_HEADER, letter.mark) in record.headers for record in records)


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (KafkaError, TimeoutError) as error:
        raise KafkaUnavailable(f"Kafka did not take every record again ({error!r}): try again.") from error


def _replayed_offset(record: RawRecord) -> int | None:
    """The offset of the letter that this record notes as replayed; None where it is a letter itself."""
    match record.headers:
        case ((name, bytes(offset)),) if name == _REPLAYED_HEADER:
            return int(offset)
    return None


async def _read_all(
    reader: AIOKafkaConsumer, places: Sequence[TopicPartition], since: datetime | None
) -> list[RawRecord]:
    if not places:
        return []
    starts, ends = await reader.beginning_offsets(places), await reader.end_offsets(places)
    if since is not None:
        starts = await written_since(reader, places, since)
    read_from(reader, starts)
    records: list[RawRecord] = []
    while any([await reader.position(place) < ends[place] for place in places]):
        for batch in (await reader.getmany(timeout_ms=200)).values():
            records.extend(batch)
    return records


def _stored(record: RawRecord, *, replayed: bool) -> StoredDeadLetter:
    # The reasons stand behind the record's own headers, which may bear the same names.
    names = [name for name, _ in record.headers]
    start = len(names) - 1 - names[::-1].index(TOPIC_HEADER)
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers[start:]}
    return StoredDeadLetter(
        letter_id=f"{record.topic}/{record.offset}",
        written_at=written_at(record),
        topic=told[TOPIC_HEADER],
        partition=int(told[PARTITION_HEADER]),
        offset=int(told[OFFSET_HEADER]),
        group=told[GROUP_HEADER],
        reason=told[REASON_HEADER],
        error=told[ERROR_HEADER],
        replayed=replayed,
        failed_again=REPLAY_GROUP_HEADER in names[:start],
        omitted=told.get(OMITTED_HEADER),
        key=record.key,
        value=record.value,
        headers=tuple(entry for entry in record.headers[:start] if entry[0] not in _REPLAY_HEADERS),
    )
