"""The tracker process: the order in which it starts and stops, and what keeps it going."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any

from aiokafka.errors import KafkaError

from services.runtime.connection import connect, disconnect
from services.runtime.faults import PassingFault
from services.runtime.ops import end_background, http_server, ops_app
from services.runtime.process import run_process
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import close_tracer
from services.session_tracker.anonymisation import Anonymisation
from services.session_tracker.backlog import Backlog
from services.session_tracker.chores import hourly, regularly
from services.session_tracker.erasing import LOOK_SECONDS, Erasing
from services.session_tracker.gauges import refresh_gauges
from services.session_tracker.lost_messages import LostMessages
from services.session_tracker.parts import Parts, make_parts
from services.session_tracker.retention import AuditRetention, Retention
from services.session_tracker.settings import TrackerSettings
from services.session_tracker.upkeep import keep_rollups

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0


async def serve(settings: TrackerSettings, shutdown: Shutdown) -> None:
    """Run the process until its shutdown is requested."""
    parts = make_parts(settings, shutdown)
    checks = {
        "fold": parts.fold.not_ready,
        "sweeps": parts.sweeping.not_ready,
        "callbacks": parts.overdue.not_ready,
    }
    server = http_server(ops_app(checks, parts.registry), settings.ops_host, settings.ops_port)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(close_tracer, parts.tracer)
        stack.push_async_callback(parts.engine.dispose)
        stack.push_async_callback(disconnect, parts.producer)
        tasks = [asyncio.create_task(work) for work in (server.serve(), *_background(settings, parts))]
        others = tasks[1:]
        stack.push_async_callback(end_background, server, tasks[0], others)
        for task in tasks:
            shutdown.watch(task)
        if not await connect(parts.producer, shutdown):
            return
        for work in (parts.overdue.run(), *_recovery(settings, parts)):
            others.append(asyncio.create_task(work))
            shutdown.watch(others[-1])
        stack.push_async_callback(parts.broker.stop)
        for consumer in (parts.fold, parts.sweeping):
            await consumer.start()
            stack.push_async_callback(consumer.stop)
        await parts.broker.start()
        await shutdown.wait()


def _background(settings: TrackerSettings, parts: Parts) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield what runs whether or not Kafka can be reached."""
    yield from _chores(settings, parts)
    yield _move_idle_progress(parts)
    yield refresh_gauges(parts.engine, parts.metrics)
    yield keep_rollups(parts.engine, parts.metrics)


def _chores(settings: TrackerSettings, parts: Parts) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield what is done for the life of the data, most of it hourly."""
    engine, metrics = parts.engine, parts.metrics
    yield regularly(LOOK_SECONDS, Erasing(engine, settings.pseudonyms, metrics).run, "Erasing users' data")
    yield hourly(parts.months.make_ahead, "Making partitions ahead")
    if settings.chat_session_retention_days:
        keep = timedelta(days=settings.chat_session_retention_days)
        yield hourly(Retention(engine, metrics, keep=keep).drop_due, "Dropping old months")
    if settings.audit_retention_days:
        keep = timedelta(days=settings.audit_retention_days)
        yield hourly(AuditRetention(engine, keep=keep).drop_due, "Dropping old months of the audit log")
    if settings.chat_session_anonymize_days:
        keep = timedelta(days=settings.chat_session_anonymize_days)
        yield hourly(Anonymisation(engine, metrics, keep=keep).run, "Anonymising old sessions")


def _recovery(settings: TrackerSettings, parts: Parts) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the search for lost messages, unless it is turned off."""
    if settings.chat_session_recovery_minutes:
        every = timedelta(minutes=settings.chat_session_recovery_minutes)
        backlog = Backlog(settings)
        yield LostMessages(parts.engine, parts.store, backlog, parts.producer, parts.metrics, every=every).run()


async def _move_idle_progress(parts: Parts) -> None:
    while True:
        await asyncio.sleep(IDLE_SECONDS)
        if parts.fold.not_ready() is not None:
            continue
        try:
            progress = await parts.tracker.idle_progress(parts.fold.consumer)
            if progress:
                await parts.store.move_progress(progress)
        except (PassingFault, KafkaError) as fault:
            logger.info("Progress of idle partitions is not moved: %s", fault)


def main() -> int:
    """Run the tracker; return its exit code."""
    return run_process("tracker", TrackerSettings, serve)
