"""The gateway process: what it is made of, and the order in which it starts and stops."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from services.api_gateway.audit import AuditLog
from services.api_gateway.auth import Authenticator, Keys, SecretKey
from services.api_gateway.conversations import Conversations
from services.api_gateway.database import LENT_AT_ONCE, Database, DatabaseAway
from services.api_gateway.downloads import Downloads
from services.api_gateway.erasure_runner import ErasureRunner
from services.api_gateway.erasures import Erasures
from services.api_gateway.gate import Gate
from services.api_gateway.idempotency import IdempotencyKeys
from services.api_gateway.job_runner import JobRunner
from services.api_gateway.jobs import Jobs
from services.api_gateway.jwks import KeySet
from services.api_gateway.limiting import Limiter
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.load import Load
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.observed import Observed
from services.api_gateway.openapi import description_pages, served_routes
from services.api_gateway.personas import Personas
from services.api_gateway.problems import answer_problems
from services.api_gateway.publishing import PRODUCER_TIMEOUT_MS, Publisher
from services.api_gateway.rates import RateLimit
from services.api_gateway.reads import SessionReads
from services.api_gateway.routes.audit import AuditRoutes
from services.api_gateway.routes.bulk import BulkRoutes
from services.api_gateway.routes.callbacks import CALLBACKS_A_MINUTE, CallbackRoutes
from services.api_gateway.routes.cleanup import CleanupRoutes
from services.api_gateway.routes.exports import ExportRoutes
from services.api_gateway.routes.live import LiveRoutes
from services.api_gateway.routes.messages import MessageRoutes
from services.api_gateway.routes.persona_tests import PersonaTestRoutes
from services.api_gateway.routes.personas import PersonaRoutes
from services.api_gateway.routes.retries import RetryRoutes
from services.api_gateway.routes.sessions import SessionRoutes
from services.api_gateway.routes.statistics import StatisticsRoutes
from services.api_gateway.routes.templates import TemplateRoutes
from services.api_gateway.routes.users import UserRoutes
from services.api_gateway.sending import Sending
from services.api_gateway.settings import GatewaySettings
from services.api_gateway.shared_counts import SharedCounts
from services.api_gateway.shedding import Shedding
from services.database.engine import build_engine
from services.runtime.kafka import build_producer
from services.runtime.ops import http_server, ops_routes
from services.runtime.process import process_registry, run_process
from services.runtime.shutdown import Shutdown
from services.runtime.tracer import build_tracer, close_tracer
from services.runtime.tracing import Tracer

logger = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 5_000
PURGE_SECONDS = 3600.0
KEY_FETCH_SECONDS = 5.0
CLOSE_SECONDS = 5.0
ABOUT = (
    "Every message that a user sends to an n8n persona opens a session, which ends once, as COMPLETED, FAILED, TIMEOUT "
    "or CANCELLED. Errors are problem details (RFC 9457) with a stable `code`."
)


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
    registry = process_registry(settings)
    metrics = GatewayMetrics(registry)
    tracer = build_tracer(settings, "gateway")
    engine = build_engine(
        settings.database_url.get_secret_value(),
        pool_size=LENT_AT_ONCE,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        pre_ping=False,
    )
    database = Database(engine)
    keys = _keys(settings, metrics)
    changes = SessionChanges(settings, database, metrics)
    publisher = Publisher(build_producer(settings, request_timeout_ms=PRODUCER_TIMEOUT_MS), metrics, tracer)
    audit = AuditLog(database, settings.pseudonyms)
    shared = _shared_counts(settings, metrics)
    idempotency_keys = IdempotencyKeys(database)
    app = build_app(
        settings, keys, database, idempotency_keys, publisher, changes, metrics, registry, audit, shared, tracer
    )
    erasures = Erasures(database, settings.pseudonyms)
    erasure_runner = ErasureRunner(erasures, idempotency_keys, Jobs(database), publisher)
    background = [
        asyncio.create_task(changes.run(), name="session changes"),
        asyncio.create_task(publisher.run(), name="publisher"),
        asyncio.create_task(JobRunner(Jobs(database), SessionReads(database), publisher).run(), name="bulk jobs"),
        asyncio.create_task(erasure_runner.run(), name="erasures"),
        asyncio.create_task(_purge(idempotency_keys, Jobs(database)), name="purge"),
        asyncio.create_task(idempotency_keys.run(), name="idempotency keys"),
        asyncio.create_task(audit.run(), name="audit"),
    ]
    for task in background:
        shutdown.watch(task)
    try:
        yield app, changes
    finally:
        changes.stop()
        for task in background:
            task.cancel()
        await publisher.stop()
        _, unfinished = await asyncio.wait(background, timeout=CLOSE_SECONDS)
        for task in unfinished:
            logger.warning("The task %s did not stop in time.", task.get_name())
        await keys.close()
        if shared is not None:
            await shared.close()
        await engine.dispose()
        await close_tracer(tracer)


def build_app(
    settings: GatewaySettings,
    keys: Keys,
    database: Database,
    idempotency_keys: IdempotencyKeys,
    publisher: Publisher,
    changes: SessionChanges,
    metrics: GatewayMetrics,
    registry: CollectorRegistry,
    audit: AuditLog,
    shared: SharedCounts | None,
    tracer: Tracer | None,
) -> Starlette:
    """Return the application over its collaborators."""
    reads = SessionReads(database)
    gate = Gate(
        Authenticator(keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience),
        audit,
        Limiter(RateLimit("requests", settings.rate_limit_reads), shared),
        settings.enable_chat_sessions,
        settings.proxies,
    )
    sending = Sending(
        publisher=publisher,
        keys=idempotency_keys,
        changes=changes,
        reads=reads,
        per_user=Limiter(RateLimit("messages", settings.rate_limit_messages), shared),
        per_persona=Limiter(RateLimit("messages to one persona", settings.rate_limit_persona), shared),
        metrics=metrics,
    )
    downloads = Downloads(metrics)
    personas = Personas(settings.egress_rules, settings.secrets_key, settings.callback_urls is not None)
    routers = [
        MessageRoutes(gate, database, Conversations(database, settings.pseudonyms), sending).router(),
        LiveRoutes(gate, database, reads, changes).router(),
        StatisticsRoutes(gate, database).router(),
        CleanupRoutes(gate, database, idempotency_keys, publisher, changes).router(),
        BulkRoutes(gate, database, idempotency_keys, Jobs(database)).router(),
        ExportRoutes(gate, database, reads, downloads).router(),
        SessionRoutes(gate, database, reads, changes, publisher).router(),
        RetryRoutes(gate, database, reads, changes, sending).router(),
        PersonaRoutes(gate, database, personas).router(),
        PersonaTestRoutes(gate, database, sending).router(),
        TemplateRoutes(gate, database).router(),
        AuditRoutes(gate, database).router(),
        UserRoutes(gate, database, Erasures(database, settings.pseudonyms), downloads).router(),
        CallbackRoutes(settings.callback_urls, publisher, Limiter(_per_session(), shared)).router(),
    ]
    app = Starlette(
        routes=[
            *served_routes(routers),
            *ops_routes({"kafka": publisher.not_ready}, registry, {} if shared is None else {"rates": shared.note}),
            *description_pages(routers, title="Chat sessions", about=ABOUT),
        ],
        middleware=_middleware(settings, metrics, tracer),
    )
    app.router.redirect_slashes = False
    answer_problems(app)
    return app


def _per_session() -> RateLimit:
    return RateLimit("callbacks of one session", CALLBACKS_A_MINUTE)


def _middleware(settings: GatewaySettings, metrics: GatewayMetrics, tracer: Tracer | None) -> list[Middleware]:
    """Return what every request passes, the outermost first."""
    load = Load(settings.gateway_max_requests, settings.gateway_max_waits, metrics.requests_in_hand)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type", "idempotency-key", "if-match", "last-event-id", "traceparent"],
        expose_headers=["location", "retry-after", "ratelimit", "ratelimit-policy", "etag"],
    )
    return [
        Middleware(Observed, metrics=metrics, hsts_seconds=settings.hsts_seconds, tracer=tracer),
        *([cors] if settings.cors_origins else []),
        Middleware(Shedding, load=load, metrics=metrics),
    ]


def _keys(settings: GatewaySettings, metrics: GatewayMetrics) -> Keys:
    if settings.jwt_secret is not None:
        return SecretKey(settings.jwt_secret.get_secret_value())
    if settings.jwt_jwks_url is None:
        raise ValueError("The settings hold neither JWT_SECRET nor JWT_JWKS_URL.")
    return KeySet(settings.jwt_jwks_url, httpx.AsyncClient(timeout=KEY_FETCH_SECONDS), metrics.signing_keys_up)


def _shared_counts(settings: GatewaySettings, metrics: GatewayMetrics) -> SharedCounts | None:
    url = settings.rate_limit_storage
    return None if url is None else SharedCounts(url.get_secret_value(), metrics)


async def _purge(keys: IdempotencyKeys, jobs: Jobs) -> None:
    while True:
        try:
            await keys.purge(datetime.now(UTC))
            await jobs.purge(datetime.now(UTC))
        except DatabaseAway as error:
            logger.warning("Old idempotency keys and jobs stay for now: %s", error)
        await asyncio.sleep(PURGE_SECONDS)
