"""Finds a session's records in Kafka: a bounded look through the times at which they can have been written."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.commands.diagnosis.facts import FoundRecord
from services.contracts import UndecodableRecord
from services.contracts.codec import decode, header
from services.contracts.events import SessionEvent
from services.runtime.dead_letters import REPLAY_GROUP_HEADER
from services.runtime.kafka import read_from
from services.runtime.records import RawRecord, written_at
from services.runtime.tracing import trace_id_of
from services.runtime.written_since import written_since

MOST_RECORDS = 500_000
MOST_SECONDS = 60.0
JOIN = timedelta(minutes=5)
"""Windows that are closer together are looked through as one."""
_BATCH = 5_000
_SHOW_SECONDS = 2.0

Window = tuple[datetime, datetime]
Progress = Callable[[int], None]
"""Is told, now and then after two seconds, how many records were looked at."""


@dataclass(slots=True)
class Search:
    """One look for a session's records; ends after 500,000 records or a minute, and then has not seen all."""

    session_id: UUID
    progress: Progress
    found: list[FoundRecord] = field(default_factory=list)
    seen: int = 0
    whole: bool = True
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _shown: float = _SHOW_SECONDS

    async def look(self, reader: AIOKafkaConsumer, places: Sequence[TopicPartition], windows: Iterable[Window]) -> None:
        """Look through these partitions where their records were written within `windows`. Raises KafkaError."""
        for since, until in joined(windows):
            ranges = await _ranges(reader, places, since, until)
            read_from(reader, {place: first for place, (first, _) in ranges.items()})
            open_places = set(ranges)
            while open_places and self._may_go_on():
                for place, records in (await reader.getmany(*open_places, timeout_ms=200, max_records=_BATCH)).items():
                    self._take(records, ranges[place][1])
                open_places = {place for place in open_places if await reader.position(place) < ranges[place][1]}
            self.whole = self.whole and not open_places

    def _may_go_on(self) -> bool:
        age = asyncio.get_running_loop().time() - self._began
        if age > self._shown:
            self._shown = age + 1
            self.progress(self.seen)
        return self.seen < MOST_RECORDS and age < MOST_SECONDS

    def _take(self, records: Sequence[RawRecord], end: int) -> None:
        self.seen += len(records)
        known = {(found.topic, found.partition, found.offset) for found in self.found}
        for record in records:
            if record.offset < end and (record.topic, record.partition, record.offset) not in known:
                found = matched(record, self.session_id)
                if found is not None:
                    self.found.append(found)


def joined(windows: Iterable[Window]) -> list[Window]:
    """Return the windows in order, those as one that overlap or nearly do."""
    merged: list[Window] = []
    for since, until in sorted(windows):
        if merged and since <= merged[-1][1] + JOIN:
            merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
        else:
            merged.append((since, until))
    return merged


def matched(record: RawRecord, session_id: UUID) -> FoundRecord | None:
    """Return the record if it is an event of the session; other events may name it as what they resume."""
    name = str(session_id)
    if name.encode() not in (record.value or b"") and header(record.headers, "ce_subject") != name:
        return None
    try:
        event = decode(record.topic, record.headers, record.value)
    except UndecodableRecord:
        return None
    if not isinstance(event, SessionEvent) or event.session_id != session_id:
        return None
    return FoundRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        at=written_at(record),
        type=type(event).__name__,
        conversation_id=event.conversation_id,
        trace_id=trace_id_of(header(record.headers, "traceparent")),
        for_group=header(record.headers, REPLAY_GROUP_HEADER),
    )


async def _ranges(
    reader: AIOKafkaConsumer, places: Sequence[TopicPartition], since: datetime, until: datetime
) -> dict[TopicPartition, tuple[int, int]]:
    """Return of each partition that has any the first offset written since, and the first after `until` or the end."""
    firsts, afters = await written_since(reader, places, since), await written_since(reader, places, until)
    return {place: (firsts[place], afters[place]) for place in places if firsts[place] < afters[place]}
