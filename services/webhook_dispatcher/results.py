"""Result events on their way to Kafka: published until the broker has acknowledged them."""

import asyncio
import logging

from aiokafka import AIOKafkaProducer

from services.contracts import Record, WebhookFailed, encode
from services.contracts.events import ResultEvent
from services.runtime.kafka import NotAcknowledged, publish
from services.runtime.logs import about
from services.runtime.placement import partition_of
from services.runtime.spans import sending
from services.runtime.tracing import Span, Tracer
from services.webhook_dispatcher.metrics import DispatcherMetrics

logger = logging.getLogger(__name__)

SOURCE = "/chat-sessions/dispatcher"
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0


class Results:
    """Publishes result events; readiness shows while Kafka does not take them."""

    def __init__(self, producer: AIOKafkaProducer, metrics: DispatcherMetrics, tracer: Tracer | None = None) -> None:
        self._producer = producer
        self._metrics = metrics
        self._tracer = tracer
        self._refused = 0

    async def publish(self, event: ResultEvent, parent: Span) -> None:
        """Return once the broker has acknowledged the event; until then the same event is published again."""
        span = sending(self._tracer, event, parent.traceparent)
        try:
            await self._publish(event, span)
        finally:
            span.end()
        if isinstance(event, WebhookFailed):
            fields = {**about(event.session_id, span.traceparent), "fault": f"{event.persona_id} {event.failure_kind}"}
            logger.warning("A session failed: %s, at attempt %d.", event.failure_kind, event.attempt, extra=fields)
        elif logger.isEnabledFor(logging.DEBUG):
            fields = about(event.session_id, span.traceparent)
            logger.debug("Attempt %d: %s.", event.attempt, type(event).__name__, extra=fields)

    def not_ready(self) -> str | None:
        """Return why results cannot be told at the moment, None if they can."""
        return f"Kafka does not acknowledge {self._refused} results." if self._refused else None

    async def _publish(self, event: ResultEvent, span: Span) -> None:
        record = encode(event, source=SOURCE, traceparent=span.traceparent)
        partition = partition_of(event.conversation_id)
        try:
            await publish(self._producer, record, partition)
        except NotAcknowledged as fault:
            span.fail("not-acknowledged")
            told = about(event.session_id, span.traceparent)
            logger.warning("%s Publishing it again until it is.", fault, extra=told)
        else:
            return
        self._refused += 1
        try:
            await self._insist(record, partition)
        finally:
            self._refused -= 1

    async def _insist(self, record: Record, partition: int) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            await asyncio.sleep(backoff)
            self._metrics.unacknowledged.inc()
            try:
                await publish(self._producer, record, partition)
            except NotAcknowledged:
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            else:
                return
