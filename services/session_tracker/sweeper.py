"""The process that asks for a timeout sweep every few hours.

A sweep's id derives from the instant at which it was due, so any number of producers, restarted at any time, ask for
the same sweeps, and each is run once.
"""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaProducer

from services.contracts.codec import encode
from services.contracts.events import TimeoutSweep
from services.contracts.ids import derived_id
from services.runtime.connection import connect, disconnect
from services.runtime.kafka import NotAcknowledged, build_producer, publish
from services.runtime.ops import http_server, ops_app
from services.runtime.process import process_registry, run_process
from services.runtime.shutdown import Shutdown
from services.session_tracker.metrics import SweeperMetrics
from services.session_tracker.settings import PRODUCER_TIMEOUT_MS, SweeperSettings
from services.session_tracker.timeouts import REQUESTED_BY

logger = logging.getLogger(__name__)

SOURCE = "/chat-sessions/sweeper"
RETRY_SECONDS = 5.0


def last_due(now: datetime, interval: timedelta) -> datetime:
    """Return the latest instant, at or before `now`, at which a sweep was due: multiples of the interval since 1970."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (now - epoch) // interval * interval


def sweep_due_at(instant: datetime) -> TimeoutSweep:
    """Return the sweep of a scheduled instant: the same from every producer."""
    sweep_id = derived_id("sweep", instant.isoformat())
    return TimeoutSweep(
        event_id=sweep_id, occurred_at=instant, sweep_id=sweep_id, as_of=instant, requested_by=REQUESTED_BY
    )


class Sweeper:
    """Publishes each sweep when it is due; on start the last one that was."""

    def __init__(self, producer: AIOKafkaProducer, interval: timedelta, metrics: SweeperMetrics) -> None:
        self._producer = producer
        self._interval = interval
        self._fault: str | None = "No sweep has been published yet."
        self._published = metrics.requested
        metrics.interval.set(interval.total_seconds())

    def not_ready(self) -> str | None:
        """Return why sweeps cannot be asked for at the moment, None if they can."""
        return self._fault

    async def run(self, shutdown: Shutdown) -> None:
        """Publish until the process stops. Kafka being away delays a sweep, and is shown in readiness."""
        due = last_due(datetime.now(UTC), self._interval)
        while not shutdown.requested:
            if await self._publish(due):
                due += self._interval
                pause = (due - datetime.now(UTC)).total_seconds()
            else:
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(shutdown.wait(), max(0.0, pause))

    async def _publish(self, due: datetime) -> bool:
        try:
            await publish(self._producer, encode(sweep_due_at(due), source=SOURCE))
        except NotAcknowledged as fault:
            self._fault = str(fault)
            logger.warning("%s Trying again.", fault)
            return False
        self._fault = None
        self._published.inc()
        logger.info("Asked for the sweep that was due at %s.", due.isoformat())
        return True


async def serve(settings: SweeperSettings, shutdown: Shutdown) -> None:
    """Run the process until its shutdown is requested."""
    registry = process_registry(settings)
    producer = build_producer(settings, request_timeout_ms=PRODUCER_TIMEOUT_MS)
    sweeper = Sweeper(producer, timedelta(hours=settings.chat_session_cleanup_interval), SweeperMetrics(registry))
    server = http_server(ops_app({"publishing": sweeper.not_ready}, registry), settings.ops_host, settings.ops_port)
    serving = asyncio.create_task(server.serve(), name="ops")
    shutdown.watch(serving)
    try:
        if await connect(producer, shutdown):
            await sweeper.run(shutdown)
    finally:
        server.should_exit = True
        await serving
        await disconnect(producer)


def main() -> int:
    """Run the sweep producer; return its exit code."""
    return run_process("sweeper", SweeperSettings, serve)
