"""The dispatcher process: the order in which it starts and stops."""

import asyncio
import contextlib

from services.runtime.connection import connect, disconnect
from services.runtime.ops import end_background, http_server, ops_app
from services.runtime.process import run_process
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import close_tracer
from services.webhook_dispatcher.engine import Engine
from services.webhook_dispatcher.parts import make_parts
from services.webhook_dispatcher.settings import DispatcherSettings

LOOK_SECONDS = 0.5


async def serve(settings: DispatcherSettings, shutdown: Shutdown) -> None:
    """Run the process until its shutdown is requested."""
    parts = make_parts(settings, shutdown)
    checks = {
        "consumer": parts.consumer.not_ready,
        "catch-up": parts.engine.not_ready,
        "personas": parts.personas.not_ready,
        "results": parts.results.not_ready,
    }
    server = http_server(ops_app(checks, parts.registry), settings.ops_host, settings.ops_port)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(close_tracer, parts.tracer)
        stack.push_async_callback(parts.database.dispose)
        stack.push_async_callback(disconnect, parts.producer)
        stack.push_async_callback(disconnect, parts.courier)
        await stack.enter_async_context(parts.n8n)
        await stack.enter_async_context(parts.n8n_api)
        stack.push_async_callback(parts.stops.close)
        works = (server.serve(), parts.personas.run(), parts.deltas.run(), _look_after(parts.engine))
        tasks = [asyncio.create_task(work) for work in works]
        stack.push_async_callback(end_background, server, tasks[0], tasks[1:])
        for task in tasks:
            shutdown.watch(task)
        if not (await connect(parts.producer, shutdown) and await connect(parts.courier, shutdown)):
            return
        stack.push_async_callback(parts.broker.stop)
        stack.push_async_callback(parts.engine.abandon)
        await parts.consumer.start()
        stack.push_async_callback(parts.consumer.stop)
        await parts.broker.start()
        await shutdown.wait()


async def _look_after(engine: Engine) -> None:
    while True:
        engine.relieve()
        engine.measure()
        await asyncio.sleep(LOOK_SECONDS)


def main() -> int:
    """Run the dispatcher; return the exit code."""
    return run_process("dispatcher", DispatcherSettings, serve)
