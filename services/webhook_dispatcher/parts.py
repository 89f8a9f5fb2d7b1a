"""What the dispatcher is made of, before any of it runs."""

from dataclasses import dataclass
from functools import partial

from aiokafka import AIOKafkaProducer
from faststream.kafka import KafkaBroker
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.topics import DISPATCHER_GROUP
from services.database.engine import build_engine
from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.runtime.kafka import build_broker, build_courier, build_producer
from services.runtime.process import process_registry
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import build_tracer
from services.runtime.tracing import Tracer
from services.webhook_dispatcher.deliveries import Deliveries
from services.webhook_dispatcher.deltas import Deltas
from services.webhook_dispatcher.engine import FOLLOWED, TOPICS, Engine
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.n8n import N8n
from services.webhook_dispatcher.n8n_api import N8nApi
from services.webhook_dispatcher.partition import Partition
from services.webhook_dispatcher.personas import Personas
from services.webhook_dispatcher.results import Results
from services.webhook_dispatcher.settings import DispatcherSettings
from services.webhook_dispatcher.stops import Stops


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One of each: the consumer, and what runs beside it, share these."""

    registry: CollectorRegistry
    tracer: Tracer | None
    database: AsyncEngine
    producer: AIOKafkaProducer
    courier: AIOKafkaProducer
    broker: KafkaBroker
    personas: Personas
    results: Results
    deltas: Deltas
    n8n: N8n
    n8n_api: N8nApi
    stops: Stops
    engine: Engine
    consumer: BatchConsumer


def make_parts(settings: DispatcherSettings, shutdown: Shutdown) -> Parts:
    """Return the parts of a dispatcher with these settings; nothing is connected to yet."""
    registry = process_registry(settings)
    consumer_metrics, metrics = ConsumerMetrics(registry), DispatcherMetrics(registry)
    tracer = build_tracer(settings, "dispatcher")
    database = build_engine(settings.database_url.get_secret_value(), pool_size=1)
    producer, courier, broker = build_producer(settings), build_courier(settings), build_broker(settings)
    personas, results = Personas(database, settings.secrets_key), Results(producer, metrics, tracer)
    deltas = Deltas(courier, metrics)
    n8n, n8n_api = N8n(settings.egress_rules), N8nApi(settings.egress_rules)
    stops = Stops(personas, database, n8n_api, metrics, shutdown)
    deliveries = Deliveries(
        personas,
        n8n,
        results,
        deltas,
        metrics,
        tracer,
        max_calls=settings.dispatcher_max_calls,
        timeout_hours=settings.chat_session_timeout_hours,
        callback_urls=settings.callback_urls,
    )
    make_partition = partial(
        Partition,
        deliveries=deliveries,
        stops=stops,
        dead_letters=DeadLetters(producer, DISPATCHER_GROUP, consumer_metrics),
        metrics=metrics,
        shutdown=shutdown,
        tracer=tracer,
        bounds=settings.held_bounds,
    )
    engine = Engine(
        make_partition,
        deliveries,
        metrics,
        shutdown,
        drain_seconds=settings.rebalance_drain_seconds,
        stop_seconds=settings.dispatcher_stop_seconds,
    )
    consumer = BatchConsumer(
        broker,
        engine,
        [engine.take],
        group_id=DISPATCHER_GROUP,
        topics=TOPICS,
        followed=FOLLOWED,
        settings=settings,
        shutdown=shutdown,
        metrics=consumer_metrics,
    )
    return Parts(
        registry=registry,
        tracer=tracer,
        database=database,
        producer=producer,
        courier=courier,
        broker=broker,
        personas=personas,
        results=results,
        deltas=deltas,
        n8n=n8n,
        n8n_api=n8n_api,
        stops=stops,
        engine=engine,
        consumer=consumer,
    )
