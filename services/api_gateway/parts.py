"""What the gateway is made of, before any of it runs."""

from dataclasses import dataclass

import httpx
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.audit import AuditLog
from services.api_gateway.auth import Keys, SecretKey
from services.api_gateway.database import LENT_AT_ONCE, Database
from services.api_gateway.erasures import Erasures
from services.api_gateway.idempotency import IdempotencyKeys
from services.api_gateway.jobs import Jobs
from services.api_gateway.jwks import KeySet
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.publishing import PRODUCER_TIMEOUT_MS, Publisher
from services.api_gateway.reads import SessionReads
from services.api_gateway.settings import GatewaySettings
from services.api_gateway.shared_counts import SharedCounts
from services.database.engine import build_engine
from services.runtime.kafka import build_producer
from services.runtime.process import process_registry
from services.runtime.tracer import build_tracer
from services.runtime.tracing import Tracer

STATEMENT_TIMEOUT_MS = 5_000
ANSWER_SECONDS = 5.5
"""After it PostgreSQL itself is taken to hang: it would have stopped the statement."""
KEY_FETCH_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One of each: routes and what runs beside them share these."""

    settings: GatewaySettings
    registry: CollectorRegistry
    metrics: GatewayMetrics
    tracer: Tracer | None
    engine: AsyncEngine
    database: Database
    reads: SessionReads
    keys: Keys
    idempotency_keys: IdempotencyKeys
    jobs: Jobs
    erasures: Erasures
    audit: AuditLog
    publisher: Publisher
    changes: SessionChanges
    shared: SharedCounts | None


def make_parts(settings: GatewaySettings) -> Parts:
    """Return the parts of a gateway with these settings; nothing is connected to yet."""
    registry = process_registry(settings)
    metrics = GatewayMetrics(registry)
    tracer = build_tracer(settings, "gateway")
    engine = build_engine(
        settings.database_url.get_secret_value(),
        pool_size=LENT_AT_ONCE,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        answer_seconds=ANSWER_SECONDS,
        pre_ping=False,
    )
    database = Database(engine)
    return Parts(
        settings=settings,
        registry=registry,
        metrics=metrics,
        tracer=tracer,
        engine=engine,
        database=database,
        reads=SessionReads(database),
        keys=_keys(settings, metrics),
        idempotency_keys=IdempotencyKeys(database),
        jobs=Jobs(database),
        erasures=Erasures(database, settings.pseudonyms),
        audit=AuditLog(database, settings.pseudonyms),
        publisher=Publisher(build_producer(settings, request_timeout_ms=PRODUCER_TIMEOUT_MS), metrics, tracer),
        changes=SessionChanges(settings, database, metrics),
        shared=_shared_counts(settings, metrics),
    )


def _keys(settings: GatewaySettings, metrics: GatewayMetrics) -> Keys:
    if settings.jwt_secret is not None:
        return SecretKey(settings.jwt_secret.get_secret_value())
    if settings.jwt_jwks_url is None:
        raise ValueError("The settings hold neither JWT_SECRET nor JWT_JWKS_URL.")
    return KeySet(settings.jwt_jwks_url, httpx.AsyncClient(timeout=KEY_FETCH_SECONDS), metrics.signing_keys_up)


def _shared_counts(settings: GatewaySettings, metrics: GatewayMetrics) -> SharedCounts | None:
    url = settings.rate_limit_storage
    return None if url is None else SharedCounts(url.get_secret_value(), metrics)
