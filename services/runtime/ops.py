"""`/health/live`, `/health/ready` and `/metrics` of a process, for probes and Prometheus."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import formatdate

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.runtime.http_protocol import BoundedHttp

Check = Callable[[], str | None]
"""Returns None while all is well, else a sentence that says what is not. Must not block."""


def ops_routes(
    checks: Mapping[str, Check], registry: CollectorRegistry, notes: Mapping[str, Check] | None = None
) -> list[Route]:
    """Return the three routes; the process is ready while every check passes.

    `notes` are told with it, and keep nobody from being ready.
    """

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        problems, noted = _told(checks), _told(notes or {})
        body = {"status": "ready" if not problems else "not-ready", "problems": problems}
        # The server adds no date: of all answers this one says what this machine's clock reads, to whoever compares.
        headers = {"date": formatdate(usegmt=True)}
        return JSONResponse({**body, "notes": noted} if noted else body, 503 if problems else 200, headers)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]


def _told(checks: Mapping[str, Check]) -> dict[str, str]:
    return {name: told for name, check in checks.items() if (told := check()) is not None}


def ops_app(checks: Mapping[str, Check], registry: CollectorRegistry) -> Starlette:
    """Return an application with nothing but the three routes."""
    return Starlette(routes=ops_routes(checks, registry))


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the process: it stops when `should_exit` is set."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers."""
        yield


def http_server(app: ASGIApp, host: str, port: int, *, drain_seconds: int = 10) -> HttpServer:
    """Return a server for `app`; run it with `serve()`. On exit it waits `drain_seconds` for running requests."""
    return HttpServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            loop="none",
            http=BoundedHttp,
            ws="none",
            # uvicorn would believe any X-Forwarded-For from this machine.
            proxy_headers=False,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=drain_seconds,
        )
    )


async def end_background(server: HttpServer, serving: asyncio.Task[None], others: Sequence[asyncio.Task[None]]) -> None:
    """Stop a process's background tasks: the server answers the requests that it has, the others are cancelled."""
    server.should_exit = True
    for task in others:
        task.cancel()
    await asyncio.gather(serving, *others, return_exceptions=True)
