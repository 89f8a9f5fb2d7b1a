"""Composition root of the dispatcher process."""

import asyncio
import contextlib
from functools import partial

from services.contracts.topics import DISPATCHER_GROUP
from services.database.engine import build_engine
from services.runtime.connection import connect, disconnect
from services.runtime.consumer import BatchConsumer
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetters
from services.runtime.kafka import build_broker, build_courier, build_producer
from services.runtime.ops import end_background, http_server, ops_app
from services.runtime.process import process_registry, run_process
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import build_tracer, close_tracer
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

LOOK_SECONDS = 0.5


async def serve(settings: DispatcherSettings, shutdown: Shutdown) -> None:
    """Run the process until its shutdown is requested."""
    registry = process_registry(settings)
    consumer_metrics, metrics = ConsumerMetrics(registry), DispatcherMetrics(registry)
    tracer = build_tracer(settings, "dispatcher")
    database = build_engine(settings.database_url.get_secret_value(), pool_size=1)
    producer, courier, broker = build_producer(settings), build_courier(settings), build_broker(settings)
    personas, results = Personas(database, settings.secrets_key), Results(producer, metrics, tracer)
    deltas = Deltas(courier, metrics)
    n8n = N8n(settings.egress_rules)
    n8n_api = N8nApi(settings.egress_rules)
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
    checks = {
        "consumer": consumer.not_ready,
        "catch-up": engine.not_ready,
        "personas": personas.not_ready,
        "results": results.not_ready,
    }
    server = http_server(ops_app(checks, registry), settings.ops_host, settings.ops_port)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(close_tracer, tracer)
        stack.push_async_callback(database.dispose)
        stack.push_async_callback(disconnect, producer)
        stack.push_async_callback(disconnect, courier)
        await stack.enter_async_context(n8n)
        await stack.enter_async_context(n8n_api)
        stack.push_async_callback(stops.close)
        works = (server.serve(), personas.run(), deltas.run(), _look_after(engine))
        tasks = [asyncio.create_task(work) for work in works]
        stack.push_async_callback(end_background, server, tasks[0], tasks[1:])
        for task in tasks:
            shutdown.watch(task)
        if not (await connect(producer, shutdown) and await connect(courier, shutdown)):
            return
        stack.push_async_callback(broker.stop)
        stack.push_async_callback(engine.abandon)
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        await broker.start()
        await shutdown.wait()


async def _look_after(engine: Engine) -> None:
    while True:
        engine.relieve()
        engine.measure()
        await asyncio.sleep(LOOK_SECONDS)


def main() -> int:
    """Run the dispatcher; return the exit code."""
    return run_process("dispatcher", DispatcherSettings, serve)
