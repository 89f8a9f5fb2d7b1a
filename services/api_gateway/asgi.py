"""The gateway as an ASGI application: every route over the parts that it needs, and what all requests pass."""

from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from services.api_gateway.auth import Authenticator
from services.api_gateway.conversations import Conversations
from services.api_gateway.downloads import Downloads
from services.api_gateway.gate import Gate
from services.api_gateway.limiting import Limiter
from services.api_gateway.load import Load
from services.api_gateway.observed import Observed
from services.api_gateway.openapi import description_pages, served_routes
from services.api_gateway.parts import Parts
from services.api_gateway.personas import Personas
from services.api_gateway.problems import answer_problems
from services.api_gateway.rates import RateLimit
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
from services.api_gateway.shedding import Shedding
from services.runtime.ops import ops_routes

ABOUT_THE_API = (
    "Every message that a user sends to an n8n persona opens a session, which ends once, as COMPLETED, FAILED, TIMEOUT "
    "or CANCELLED. Errors are problem details (RFC 9457) with a stable `code`."
)


def build_app(parts: Parts) -> Starlette:
    """Return the application over its parts."""
    routers = _routers(parts)
    notes = {"postgresql": parts.database.note} | ({} if parts.shared is None else {"rates": parts.shared.note})
    app = Starlette(
        routes=[
            *served_routes(routers),
            *ops_routes({"kafka": parts.publisher.not_ready}, parts.registry, notes),
            *description_pages(routers, title="Chat sessions", about=ABOUT_THE_API),
        ],
        middleware=_middleware(parts),
    )
    app.router.redirect_slashes = False
    answer_problems(app)
    return app


def _routers(parts: Parts) -> list[APIRouter]:
    settings, database, reads, changes = parts.settings, parts.database, parts.reads, parts.changes
    gate, sending, downloads = _gate(parts), _sending(parts), Downloads(parts.metrics)
    personas = Personas(settings.egress_rules, settings.secrets_key, settings.callback_urls is not None)
    per_session = _limiter(parts, "callbacks of one session", CALLBACKS_A_MINUTE)
    return [
        MessageRoutes(gate, database, Conversations(database, settings.pseudonyms), sending).router(),
        LiveRoutes(gate, database, reads, changes).router(),
        StatisticsRoutes(gate, database).router(),
        CleanupRoutes(gate, database, parts.idempotency_keys, parts.publisher, changes).router(),
        BulkRoutes(gate, database, parts.idempotency_keys, parts.jobs).router(),
        ExportRoutes(gate, database, reads, downloads).router(),
        SessionRoutes(gate, database, reads, changes, parts.publisher).router(),
        RetryRoutes(gate, database, reads, changes, sending).router(),
        PersonaRoutes(gate, database, personas).router(),
        PersonaTestRoutes(gate, database, sending).router(),
        TemplateRoutes(gate, database).router(),
        AuditRoutes(gate, database).router(),
        UserRoutes(gate, database, parts.erasures, downloads).router(),
        CallbackRoutes(settings.callback_urls, parts.publisher, per_session).router(),
    ]


def _gate(parts: Parts) -> Gate:
    settings = parts.settings
    return Gate(
        Authenticator(parts.keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience),
        parts.audit,
        _limiter(parts, "requests", settings.rate_limit_reads),
        settings.enable_chat_sessions,
        settings.proxies,
    )


def _sending(parts: Parts) -> Sending:
    return Sending(
        publisher=parts.publisher,
        keys=parts.idempotency_keys,
        changes=parts.changes,
        reads=parts.reads,
        per_user=_limiter(parts, "messages", parts.settings.rate_limit_messages),
        per_persona=_limiter(parts, "messages to one persona", parts.settings.rate_limit_persona),
        metrics=parts.metrics,
    )


def _limiter(parts: Parts, what: str, a_minute: int) -> Limiter:
    return Limiter(RateLimit(what, a_minute), parts.shared)


def _middleware(parts: Parts) -> list[Middleware]:
    """Return what every request passes, the outermost first."""
    settings, metrics = parts.settings, parts.metrics
    load = Load(settings.gateway_max_requests, settings.gateway_max_waits, metrics.requests_in_hand)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type", "idempotency-key", "if-match", "last-event-id", "traceparent"],
        expose_headers=["location", "retry-after", "ratelimit", "ratelimit-policy", "etag"],
    )
    return [
        Middleware(Observed, metrics=metrics, hsts_seconds=settings.hsts_seconds, tracer=parts.tracer),
        *([cors] if settings.cors_origins else []),
        Middleware(Shedding, load=load, metrics=metrics),
    ]
