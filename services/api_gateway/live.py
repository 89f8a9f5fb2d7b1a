"""Session changes as they happen: wakes whoever waits for a session."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from services.api_gateway.metrics import GatewayMetrics
from services.contracts.codec import header
from services.contracts.topics import SESSIONS
from services.runtime.kafka import build_reader
from services.runtime.settings import KafkaSettings

logger = logging.getLogger(__name__)

POLL_MS = 1000
RETRY_SECONDS = 1.0


class Waiter:
    """One request's interest in one session."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Tell that the session may have changed."""
        self._changed.set()

    async def nap(self, seconds: float) -> None:
        """Return at the next change, one missed since the last nap included, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()


class SessionChanges:
    """Reads every partition of the sessions topic, without a group, from the end."""

    def __init__(self, settings: KafkaSettings, metrics: GatewayMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._waiters: dict[str, set[Waiter]] = {}
        self.stopping = False

    @contextlib.contextmanager
    def waiter(self, session_id: UUID) -> Iterator[Waiter]:
        """Lend a Waiter that is woken whenever the session changes."""
        key, waiter = str(session_id), Waiter()
        self._waiters.setdefault(key, set()).add(waiter)
        self._metrics.waiters.inc()
        try:
            yield waiter
        finally:
            self._metrics.waiters.dec()
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]

    def stop(self) -> None:
        """Wake everyone for good: the gateway stops, and their requests are to be answered with what is known."""
        self.stopping = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()

    async def run(self) -> None:
        """Read until cancelled. While Kafka is away nobody is woken; who waits looks for himself each second."""
        while True:
            reader = build_reader(self._settings, client_id="chat-gateway-live")
            try:
                await reader.start()
                await self._read(reader)
            except KafkaError as error:
                logger.warning("Session changes cannot be read, trying again: %r", error)
            finally:
                await reader.stop()
            await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, reader: AIOKafkaConsumer) -> None:
        # Asking a broker for the partitions of a topic that it does not have could make it, with wrong partitions.
        if SESSIONS.name not in await reader.topics():
            raise UnknownTopicOrPartitionError(f"{SESSIONS.name} is not there; run `chat-sessions migrate`.")
        reader.assign([TopicPartition(SESSIONS.name, number) for number in range(SESSIONS.partitions)])
        await reader.seek_to_end()
        while True:
            for records in (await reader.getmany(timeout_ms=POLL_MS)).values():
                for record in records:
                    self._wake(header(record.headers, "ce_subject"))

    def _wake(self, session_id: str | None) -> None:
        for waiter in self._waiters.get(session_id or "", ()):
            waiter.wake()
