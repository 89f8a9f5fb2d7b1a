"""What the sessions and deltas topics tell, as it comes: for requests that wait, and for streams."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from services.api_gateway.database import Database
from services.api_gateway.live.lists import LiveLists
from services.api_gateway.live.open_streams import OpenStreams
from services.api_gateway.live.recent import Change, Delta
from services.api_gateway.live.sessions import LiveSessions
from services.api_gateway.live.waiters import Waiter, Waiters
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.settings import GatewaySettings
from services.contracts.codec import header
from services.contracts.topics import DELTAS, PARTITIONS, SESSIONS
from services.runtime.kafka import build_reader, read_from
from services.runtime.records import RawRecord

logger = logging.getLogger(__name__)

POLL_MS = 1000
RETRY_SECONDS = 1.0
TAKEN_TOGETHER = 100
"""Records between two looks at what else there is to do: what they tell must have room in a stream that was empty."""
BACKLOG = 20_000
"""Records of each topic from before the start that are read at the start, for clients that come back."""

_TOPICS = (SESSIONS, DELTAS)
_PARTITIONS = {topic.name: [TopicPartition(topic.name, number) for number in range(PARTITIONS)] for topic in _TOPICS}


class SessionChanges:
    """Reads every partition of both topics without a group: one consumer, however many clients there are."""

    def __init__(self, settings: GatewaySettings, database: Database, metrics: GatewayMetrics) -> None:
        self._settings = settings
        self._waiters = Waiters(metrics)
        self.streams = OpenStreams(settings.gateway_max_streams, settings.gateway_max_streams_per_user, metrics)
        self.sessions = LiveSessions(metrics)
        self.lists = LiveLists(database, metrics)
        self._next: dict[TopicPartition, int] = {}
        """The offset that follows on the last record read."""
        self._ends: dict[TopicPartition, int] = {}
        """Of the sessions topic, at the start: what was published before is no news to anybody who comes now."""
        self.is_current = False
        """Whether what is read is what happens now; a fault of Kafka delays it, and leaves nothing out."""
        self.stopping = False

    def waiter(self, session_id: UUID) -> contextlib.AbstractContextManager[Waiter]:
        """Lend a Waiter that is woken whenever the session changes."""
        return self._waiters.waiter(session_id)

    def stop(self) -> None:
        """Wake everyone for good: the gateway stops. Streams end, and requests are answered with what is known."""
        self.stopping = True
        self.streams.stop()
        self._waiters.wake_all()

    async def run(self) -> None:
        """Read until cancelled. While Kafka is away nobody is told; who waits looks for himself each second."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.streams.run(), name="open streams")
            group.create_task(self.lists.run(), name="live lists")
            await self._follow()

    async def _follow(self) -> None:
        while True:
            reader = build_reader(self._settings, client_id="chat-gateway-live")
            try:
                await reader.start()
                await self._begin(reader)
                while True:
                    self._take(await reader.getmany(timeout_ms=POLL_MS, max_records=TAKEN_TOGETHER))
                    await asyncio.sleep(0)
            except KafkaError as error:
                logger.warning("Session changes cannot be read, trying again: %r", error)
            finally:
                await reader.stop()
            await asyncio.sleep(RETRY_SECONDS)

    async def _begin(self, reader: AIOKafkaConsumer) -> None:
        # Asking a broker for the partitions of a topic that it does not have could make it, with wrong partitions.
        missing = _PARTITIONS.keys() - await reader.topics()
        if missing:
            raise UnknownTopicOrPartitionError(f"{', '.join(missing)} is not there; run `chat-sessions migrate`.")
        partitions = [*_PARTITIONS[SESSIONS.name], *_PARTITIONS[DELTAS.name]]
        firsts, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
        is_first = not self._next
        goes_on = not is_first and all(firsts[one] <= self._next[one] <= ends[one] for one in partitions)
        if not goes_on:
            # After a start with what came before it, for clients that come back; after a loss with what comes now.
            back = BACKLOG // PARTITIONS if is_first else 0
            self._next = {one: max(firsts[one], ends[one] - back) for one in partitions}
            self._ends = {one: ends[one] for one in _PARTITIONS[SESSIONS.name]}
            self.lists.begin([self._next[one] for one in _PARTITIONS[SESSIONS.name]])
        read_from(reader, self._next)
        self._see_whether_current()

    def _take(self, batches: Mapping[TopicPartition, Sequence[RawRecord]]) -> None:
        # Pieces of a reply first: they come before the end of their session.
        for partition in sorted(batches, key=lambda one: one.topic != DELTAS.name):
            take = self._take_delta if partition.topic == DELTAS.name else self._take_change
            for record in batches[partition]:
                take(record)
                self._next[partition] = record.offset + 1
        self.lists.flush()
        if not self.is_current:
            self._see_whether_current()

    def _take_change(self, record: RawRecord) -> None:
        session_id = header(record.headers, "ce_subject") or ""
        change = Change(record.partition, record.offset, record.timestamp / 1000, session_id, record.value or b"")
        if not self.lists.change(change):
            logger.warning("Changes are missing before %d/%d; streams are told.", record.partition, record.offset)
            offsets = [*self.lists.offsets]
            offsets[record.partition] = record.offset
            self.lists.begin(offsets)
            self.lists.change(change)
        self.sessions.change(change)
        self._waiters.wake(session_id)

    def _take_delta(self, record: RawRecord) -> None:
        session_id = header(record.headers, "ce_subject") or ""
        self.sessions.hear(Delta(record.offset, record.timestamp / 1000, session_id, record.value or b""))

    def _see_whether_current(self) -> None:
        self.is_current = all(self._next[one] >= end for one, end in self._ends.items())
