"""Pieces of streamed replies on their way to whoever watches: at best effort, never in the way of a reply."""

import asyncio
import logging
import sys
from collections import deque
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from services.contracts import MessageSent, ReplyDelta, encode, new_id
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.results import SOURCE

logger = logging.getLogger(__name__)

TOGETHER_SECONDS = 0.05
"""What arrives within this time is one record."""
MOST_WAITING_BYTES = 16 * 1024 * 1024
"""Of pieces that Kafka has not taken yet; what comes beyond is dropped."""
PIECE_BYTES = 1536
"""What a piece takes beside its text, which mostly is a few words."""


class Deltas:
    """Publishes deltas in the order in which they are offered. `run` must be running."""

    def __init__(self, producer: AIOKafkaProducer, metrics: DispatcherMetrics) -> None:
        self._producer = producer
        self._published = metrics.deltas.labels("published")
        self._dropped = metrics.deltas.labels("dropped")
        self._waiting: deque[tuple[ReplyDelta, str]] = deque()
        self._waiting_bytes = 0
        self._offered = asyncio.Event()

    def writer(self, message: MessageSent, attempt: int, traceparent: str) -> "DeltaWriter":
        """Return what takes the pieces of the reply that one attempt may stream."""
        return DeltaWriter(self, message, attempt, traceparent)

    def offer(self, delta: ReplyDelta, traceparent: str) -> None:
        """Publish the delta, or drop it where too many wait; returns at once and never raises."""
        size = _size(delta)
        if self._waiting_bytes + size > MOST_WAITING_BYTES:
            self._dropped.inc()
            return
        self._waiting.append((delta, traceparent))
        self._waiting_bytes += size
        self._offered.set()

    async def run(self) -> None:
        """Publish what is offered, for ever."""
        while True:
            self._offered.clear()
            while self._waiting:
                delta, traceparent = self._waiting.popleft()
                self._waiting_bytes -= _size(delta)
                await self._publish(delta, traceparent)
            await self._offered.wait()

    async def _publish(self, delta: ReplyDelta, traceparent: str) -> None:
        record = encode(delta, source=SOURCE, traceparent=traceparent)
        try:
            sent = await self._producer.send(record.topic, record.value, key=record.key, headers=record.headers)
        except KafkaError as fault:
            self._drop(fault)
        else:
            sent.add_done_callback(self._acknowledged)

    def _acknowledged(self, sent: "asyncio.Future[object]") -> None:
        if sent.cancelled():
            self._dropped.inc()
        elif (fault := sent.exception()) is not None:
            self._drop(fault)
        else:
            self._published.inc()

    def _drop(self, fault: BaseException) -> None:
        logger.debug("Kafka did not take a piece of a reply, which is dropped: %r", fault)
        self._dropped.inc()


class DeltaWriter:
    """Gathers the pieces of one attempt's reply: the first goes out at once, then one record every 50 ms."""

    __slots__ = ("_attempt", "_deltas", "_index", "_message", "_not_before", "_pieces", "_timer", "_traceparent")

    def __init__(self, deltas: Deltas, message: MessageSent, attempt: int, traceparent: str) -> None:
        self._deltas = deltas
        self._message = message
        self._attempt = attempt
        self._traceparent = traceparent
        self._index = 0
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0

    def hear(self, text: str) -> None:
        """Take the next piece; a record leaves as soon as the last one is 50 ms old."""
        self._pieces.append(text)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._not_before, self.flush)

    def flush(self) -> None:
        """Let go of what is gathered; call it when the attempt has ended."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._not_before = asyncio.get_running_loop().time() + TOGETHER_SECONDS
        text = "".join(self._pieces)
        self._pieces.clear()
        self._deltas.offer(self._delta(text), self._traceparent)
        self._index += 1

    def _delta(self, text: str) -> ReplyDelta:
        sent = self._message
        return ReplyDelta(
            event_id=new_id(),
            occurred_at=datetime.now(UTC),
            session_id=sent.session_id,
            conversation_id=sent.conversation_id,
            persona_id=sent.persona_id,
            user_id=sent.user_id,
            attempt=self._attempt,
            index=self._index,
            text=text,
        )


def _size(delta: ReplyDelta) -> int:
    return PIECE_BYTES + sys.getsizeof(delta.text)
