"""Composition root of the tracker process: the fold, the sweeps, and what keeps them going."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.topics import CONTROL, MESSAGES, RESULTS, SWEEPS, SWEEPS_GROUP, TRACKER_GROUP
from services.database.engine import build_engine
from services.runtime.connection import connect, disconnect
from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.runtime.faults import PassingFault
from services.runtime.kafka import build_broker, build_producer
from services.runtime.ops import end_background, http_server, ops_app
from services.runtime.process import process_registry, run_process
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import build_tracer, close_tracer
from services.session_tracker.anonymisation import Anonymisation
from services.session_tracker.backlog import Backlog
from services.session_tracker.chores import hourly, regularly
from services.session_tracker.erasing import LOOK_SECONDS, Erasing
from services.session_tracker.gauges import refresh_gauges
from services.session_tracker.lost_messages import LostMessages
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.overdue import OverdueCallbacks
from services.session_tracker.overdue_store import OverdueStore
from services.session_tracker.retention import AuditRetention, Retention
from services.session_tracker.settings import PRODUCER_TIMEOUT_MS, TrackerSettings
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.sweeps import Sweeps
from services.session_tracker.tracker import Tracker
from services.session_tracker.untold import UntoldChunks
from services.session_tracker.upkeep import keep_rollups

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
"""How long a light load is gathered into one transaction."""
IDLE_SECONDS = 1.0


async def serve(settings: TrackerSettings, shutdown: Shutdown) -> None:
    """Run the process until its shutdown is requested."""
    registry = process_registry(settings)
    consumer_metrics, metrics = ConsumerMetrics(registry), TrackerMetrics(registry)
    tracer = build_tracer(settings, "tracker")
    engine = build_engine(settings.database_url.get_secret_value(), pool_size=8, pre_ping=False)
    producer = build_producer(settings, request_timeout_ms=PRODUCER_TIMEOUT_MS)
    broker = build_broker(settings)
    store, months = SessionStore(engine, settings.pseudonyms), Months(engine)
    tracker = Tracker(
        store,
        months,
        producer,
        DeadLetters(producer, TRACKER_GROUP, consumer_metrics),
        metrics,
        consumer_metrics,
        tracer,
        anonymize_days=settings.chat_session_anonymize_days,
    )
    untold = UntoldChunks(store, producer)
    sweeps = Sweeps(
        SweepStore(engine, store),
        untold,
        DeadLetters(producer, SWEEPS_GROUP, consumer_metrics),
        metrics,
        shutdown,
        timeout_hours=settings.chat_session_timeout_hours,
    )
    fold = BatchConsumer(
        broker,
        tracker,
        [tracker.read, tracker.fold, tracker.tell],
        group_id=TRACKER_GROUP,
        topics=[MESSAGES.name, RESULTS.name, CONTROL.name],
        settings=settings,
        shutdown=shutdown,
        metrics=consumer_metrics,
        max_records=settings.tracker_batch_records,
        gather_seconds=GATHER_SECONDS,
    )
    sweeping = BatchConsumer(
        broker,
        sweeps,
        [sweeps.take],
        group_id=SWEEPS_GROUP,
        topics=[SWEEPS.name],
        settings=settings,
        shutdown=shutdown,
        metrics=consumer_metrics,
        max_records=1,
    )
    overdue = OverdueCallbacks(OverdueStore(store), untold, metrics)
    checks = {"fold": fold.not_ready, "sweeps": sweeping.not_ready, "callbacks": overdue.not_ready}
    server = http_server(ops_app(checks, registry), settings.ops_host, settings.ops_port)
    background = [
        server.serve(),
        *_chores(settings, engine, months, metrics),
        _move_idle_progress(fold, tracker, store),
        refresh_gauges(engine, metrics),
        keep_rollups(engine, metrics),
    ]
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(close_tracer, tracer)
        stack.push_async_callback(engine.dispose)
        stack.push_async_callback(disconnect, producer)
        tasks = [asyncio.create_task(coroutine) for coroutine in background]
        others = tasks[1:]
        stack.push_async_callback(end_background, server, tasks[0], others)
        for task in tasks:
            shutdown.watch(task)
        if not await connect(producer, shutdown):
            return
        for work in (overdue.run(), *_recovery(settings, engine, store, producer, metrics)):
            others.append(asyncio.create_task(work))
            shutdown.watch(others[-1])
        stack.push_async_callback(broker.stop)
        for consumer in (fold, sweeping):
            await consumer.start()
            stack.push_async_callback(consumer.stop)
        await broker.start()
        await shutdown.wait()


def _chores(
    settings: TrackerSettings, engine: AsyncEngine, months: Months, metrics: TrackerMetrics
) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield what is done for the life of the data, most of it hourly."""
    yield regularly(LOOK_SECONDS, Erasing(engine, settings.pseudonyms, metrics).run, "Erasing users' data")
    yield hourly(months.make_ahead, "Making partitions ahead")
    if settings.chat_session_retention_days:
        keep = timedelta(days=settings.chat_session_retention_days)
        yield hourly(Retention(engine, metrics, keep=keep).drop_due, "Dropping old months")
    if settings.audit_retention_days:
        keep = timedelta(days=settings.audit_retention_days)
        yield hourly(AuditRetention(engine, keep=keep).drop_due, "Dropping old months of the audit log")
    if settings.chat_session_anonymize_days:
        keep = timedelta(days=settings.chat_session_anonymize_days)
        yield hourly(Anonymisation(engine, metrics, keep=keep).run, "Anonymising old sessions")


def _recovery(
    settings: TrackerSettings,
    engine: AsyncEngine,
    store: SessionStore,
    producer: AIOKafkaProducer,
    metrics: TrackerMetrics,
) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the search for lost messages, unless it is turned off."""
    if settings.chat_session_recovery_minutes:
        every = timedelta(minutes=settings.chat_session_recovery_minutes)
        yield LostMessages(engine, store, Backlog(settings), producer, metrics, every=every).run()


async def _move_idle_progress(fold: BatchConsumer, tracker: Tracker, store: SessionStore) -> None:
    while True:
        await asyncio.sleep(IDLE_SECONDS)
        if fold.not_ready() is not None:
            continue
        try:
            progress = await tracker.idle_progress(fold.consumer)
            if progress:
                await store.move_progress(progress)
        except (PassingFault, KafkaError) as fault:
            logger.info("Progress of idle partitions is not moved: %s", fault)


def main() -> int:
    """Run the tracker; return its exit code."""
    return run_process("tracker", TrackerSettings, serve)
