"""What the tracker is made of, before any of it runs."""

from dataclasses import dataclass
from functools import partial

from aiokafka import AIOKafkaProducer
from faststream.kafka import KafkaBroker
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.topics import CONTROL, MESSAGES, RESULTS, SWEEPS, SWEEPS_GROUP, TRACKER_GROUP
from services.database.engine import build_engine
from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.runtime.kafka import build_broker, build_producer
from services.runtime.process import process_registry
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import build_tracer
from services.runtime.tracing import Tracer
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.overdue import OverdueCallbacks
from services.session_tracker.overdue_store import OverdueStore
from services.session_tracker.settings import PRODUCER_TIMEOUT_MS, TrackerSettings
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.sweeps import Sweeps
from services.session_tracker.tracker import Tracker
from services.session_tracker.untold import UntoldChunks

GATHER_SECONDS = 0.02
"""How long a light load is gathered into one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One of each: the consumers, and what runs beside them, share these."""

    registry: CollectorRegistry
    metrics: TrackerMetrics
    tracer: Tracer | None
    engine: AsyncEngine
    producer: AIOKafkaProducer
    broker: KafkaBroker
    store: SessionStore
    months: Months
    tracker: Tracker
    fold: BatchConsumer
    sweeping: BatchConsumer
    overdue: OverdueCallbacks


def make_parts(settings: TrackerSettings, shutdown: Shutdown) -> Parts:
    """Return the parts of a tracker with these settings; nothing is connected to yet."""
    registry = process_registry(settings)
    metrics, consumer_metrics = TrackerMetrics(registry), ConsumerMetrics(registry)
    tracer = build_tracer(settings, "tracker")
    engine = build_engine(settings.database_url.get_secret_value(), pool_size=8, pre_ping=False)
    producer = build_producer(settings, request_timeout_ms=PRODUCER_TIMEOUT_MS)
    broker = build_broker(settings)
    store, months = SessionStore(engine, settings.pseudonyms), Months(engine)
    untold = UntoldChunks(store, producer)
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
    sweeps = Sweeps(
        SweepStore(engine, store),
        untold,
        DeadLetters(producer, SWEEPS_GROUP, consumer_metrics),
        metrics,
        shutdown,
        timeout_hours=settings.chat_session_timeout_hours,
    )
    consumer = partial(BatchConsumer, broker, settings=settings, shutdown=shutdown, metrics=consumer_metrics)
    return Parts(
        registry=registry,
        metrics=metrics,
        tracer=tracer,
        engine=engine,
        producer=producer,
        broker=broker,
        store=store,
        months=months,
        tracker=tracker,
        fold=consumer(
            tracker,
            [tracker.read, tracker.fold, tracker.tell],
            group_id=TRACKER_GROUP,
            topics=[MESSAGES.name, RESULTS.name, CONTROL.name],
            max_records=settings.tracker_batch_records,
            gather_seconds=GATHER_SECONDS,
        ),
        sweeping=consumer(sweeps, [sweeps.take], group_id=SWEEPS_GROUP, topics=[SWEEPS.name], max_records=1),
        overdue=OverdueCallbacks(OverdueStore(store), untold, metrics),
    )
