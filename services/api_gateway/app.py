"""The gateway process: the order in which it starts and stops."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from starlette.applications import Starlette

from services.api_gateway.asgi import build_app
from services.api_gateway.database import DatabaseAway
from services.api_gateway.erasure_runner import ErasureRunner
from services.api_gateway.idempotency import IdempotencyKeys
from services.api_gateway.job_runner import JobRunner
from services.api_gateway.jobs import Jobs
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.parts import Parts, make_parts
from services.api_gateway.settings import GatewaySettings
from services.runtime.ops import http_server
from services.runtime.process import run_process
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import close_tracer

logger = logging.getLogger(__name__)

PURGE_SECONDS = 3600.0
CLOSE_SECONDS = 5.0


def main() -> int:
    """Run the gateway until it is told to stop; return its exit code."""
    return run_process("gateway", GatewaySettings, serve)


async def serve(settings: GatewaySettings, shutdown: Shutdown) -> None:
    """Serve until `shutdown`, then stop intake, let running requests end (10 s) and close what was open."""
    async with open_gateway(settings, shutdown) as (app, changes):
        server = http_server(app, settings.gateway_host, settings.gateway_port)
        serving = asyncio.create_task(server.serve(), name="http")
        serving.add_done_callback(lambda _: shutdown.request())
        shutdown.watch(serving)
        await shutdown.wait()
        changes.stop()
        server.should_exit = True
        await asyncio.wait([serving])


@contextlib.asynccontextmanager
async def open_gateway(
    settings: GatewaySettings, shutdown: Shutdown
) -> AsyncIterator[tuple[Starlette, SessionChanges]]:
    """Lend the application with everything behind it running; Kafka and PostgreSQL may come later."""
    parts = make_parts(settings)
    app = build_app(parts)
    background = _background(parts)
    for task in background:
        shutdown.watch(task)
    try:
        yield app, parts.changes
    finally:
        parts.changes.stop()
        for task in background:
            task.cancel()
        await parts.publisher.stop()
        _, unfinished = await asyncio.wait(background, timeout=CLOSE_SECONDS)
        for task in unfinished:
            logger.warning("The task %s did not stop in time.", task.get_name())
        await parts.keys.close()
        if parts.shared is not None:
            await parts.shared.close()
        await parts.engine.dispose()
        await close_tracer(parts.tracer)


def _background(parts: Parts) -> list[asyncio.Task[None]]:
    """Begin what runs beside the requests."""
    job_runner = JobRunner(parts.jobs, parts.reads, parts.publisher)
    erasure_runner = ErasureRunner(parts.erasures, parts.idempotency_keys, parts.jobs, parts.publisher)
    works = {
        "session changes": parts.changes.run(),
        "publisher": parts.publisher.run(),
        "bulk jobs": job_runner.run(),
        "erasures": erasure_runner.run(),
        "purge": _purge(parts.idempotency_keys, parts.jobs),
        "idempotency keys": parts.idempotency_keys.run(),
        "audit": parts.audit.run(),
    }
    return [asyncio.create_task(work, name=name) for name, work in works.items()]


async def _purge(keys: IdempotencyKeys, jobs: Jobs) -> None:
    while True:
        try:
            await keys.purge(datetime.now(UTC))
            await jobs.purge(datetime.now(UTC))
        except DatabaseAway as error:
            logger.warning("Old idempotency keys and jobs stay for now: %s", error)
        await asyncio.sleep(PURGE_SECONDS)
