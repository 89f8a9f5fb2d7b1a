"""The gateway's way into Kafka: every event acknowledged, within a time that a client can wait."""

import asyncio
import logging
import time

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from services.api_gateway.metrics import GatewayMetrics
from services.contracts import Event, encode
from services.contracts.events import SessionEvent
from services.runtime.connection import disconnect
from services.runtime.kafka import NotAcknowledged, publish
from services.runtime.placement import partition_of
from services.runtime.spans import sending
from services.runtime.time_limits import TimeLimit, Watch
from services.runtime.tracing import Tracer, continued

logger = logging.getLogger(__name__)

SOURCE = "/chat-sessions/gateway"
ACKNOWLEDGE_SECONDS = 5.0
PRODUCER_TIMEOUT_MS = 4_500
"""Ends the producer's own tries before a request gives up on it."""
PROBE_SECONDS = 2.0


class Publisher:
    """Publishes events over one producer, which it starts, watches and stops."""

    def __init__(self, producer: AIOKafkaProducer, metrics: GatewayMetrics, tracer: Tracer | None) -> None:
        self._producer = producer
        self._metrics = metrics
        self._tracer = tracer
        self._reached = asyncio.Event()
        self._watch = Watch()
        self._trouble: str | None = "The gateway has not reached Kafka yet."

    async def run(self) -> None:
        """Connect, and look every 2 s whether Kafka still answers; for as long as the gateway runs."""
        while True:
            try:
                async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                    await self._reach()
            except (KafkaError, TimeoutError, OSError) as error:
                self._told(f"Kafka cannot be reached: {type(error).__name__}.")
            else:
                self._trouble = None
            await asyncio.sleep(PROBE_SECONDS)

    async def publish(self, event: Event, *, parent: str | None = None) -> None:
        """Return once Kafka has acknowledged the event; raise NotAcknowledged if it has not within 5 s.

        It goes on from the traceparent `parent`, or begins a trace.
        """
        began = time.perf_counter()
        span = sending(self._tracer, event, parent or continued(None))
        try:
            with TimeLimit(self._watch, ACKNOWLEDGE_SECONDS):
                if not self._reached.is_set():
                    await self._reached.wait()
                record = encode(event, source=SOURCE, traceparent=span.traceparent)
                await publish(self._producer, record, _partition(event))
        except (NotAcknowledged, TimeoutError) as error:
            self._metrics.not_acknowledged.inc()
            span.fail("not-acknowledged")
            self._told("Kafka did not acknowledge an event in time.")
            raise NotAcknowledged("Kafka did not acknowledge the event in time.") from error
        finally:
            span.end()
        self._trouble = None
        self._metrics.publish_seconds.observe(time.perf_counter() - began)

    def not_ready(self) -> str | None:
        """Return why events cannot be published at the moment, None if they can."""
        return self._trouble

    async def stop(self) -> None:
        """Send what is on its way, and close the connections."""
        # Also where Kafka was never reached: what is not closed complains when the process has all but ended.
        await disconnect(self._producer)

    async def _reach(self) -> None:
        if self._reached.is_set():
            await self._producer.client.fetch_all_metadata()
        else:
            await self._producer.start()
            self._reached.set()

    def _told(self, trouble: str) -> None:
        if self._trouble is None:
            logger.warning("%s Trying again until it passes.", trouble)
        self._trouble = trouble


def _partition(event: Event) -> int | None:
    """Return the partition of a conversation's event, which is remembered; of others the producer finds it."""
    return partition_of(event.conversation_id) if isinstance(event, SessionEvent) else None
