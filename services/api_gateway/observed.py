"""Measures and traces every request, and gives every answer the headers that keep it safe and tell of rate limits."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api_gateway.limiting import verdict_headers
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.problems import SAFE_HEADERS
from services.api_gateway.traces import given_traceparent, join_trace, trace_so_far
from services.runtime.spans import answered, answering
from services.runtime.tracing import Span, Tracer

_UNTRACED = ("/health/", "/metrics")
_EVENTS = (b"content-type", b"text/event-stream")
"""Of answers that last for as long as their clients like: what counts is when they begin."""


class Observed:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, hsts_seconds: int, tracer: Tracer | None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer
        headers = SAFE_HEADERS | ({"strict-transport-security": f"max-age={hsts_seconds}"} if hsts_seconds else {})
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, begun = 500, None
        span = self._span(scope)

        async def send_safely(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status = message["status"]
                own = message["headers"]
                if _EVENTS in own:
                    begun = time.perf_counter()
                named = dict(own)
                safe = [header for header in self._headers if header[0] not in named]
                message["headers"] = [*own, *safe, *verdict_headers(scope)]
            await send(message)

        try:
            await self._app(scope, receive, send_safely)
        finally:
            # By the route's template: paths would make a series of every session.
            route = getattr(scope.get("route"), "path", None) or "unknown"
            method = scope["method"] if route != "unknown" else "any"
            self._metrics.answered(route, method, status, (begun or time.perf_counter()) - began, trace_so_far(scope))
            if span is not None:
                answered(span, scope["method"], route, status)

    def _span(self, scope: Scope) -> Span | None:
        if self._tracer is None or scope["path"].startswith(_UNTRACED):
            return None
        span = answering(self._tracer, scope["method"], given_traceparent(scope))
        join_trace(scope, span.traceparent)
        return span
