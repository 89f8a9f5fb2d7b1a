"""FastAPI describes the routes, Starlette serves them.

The endpoints read requests and build answers themselves, so FastAPI's own handling would run for nothing; what that
costs on an empty endpoint is in docs/decisions/0003-http-server.md.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from services.api_gateway.documentation.parts import REF, SHOWN_MODELS, TAKEN_MODELS
from services.api_gateway.scopes import WHAT_SCOPES_ALLOW

Endpoint = Callable[[Request], Awaitable[Response]]

_ASSETS = "/static-offline-docs"
"""Where FastAPIOffline has them."""
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_ABOUT_TOKENS = (
    "Claims: `sub` is the user, `roles` may hold ADMIN, `exp` is needed. A service that acts for a user is named in "
    "`act.sub`, and may do what `scope` names; a user's own token is narrowed by `scope` if that names any of these: "
    + "; ".join(f"`{scope}`: {about}" for scope, about in WHAT_SCOPES_ALLOW.items())
    + "."
)


class Calls(Route):
    """All calls of one path: another method is 405 here, and is not looked for at paths that this one may match."""

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint]) -> None:
        super().__init__(path, self.handle)
        # `{…:path}` would not take an id with a newline in it.
        self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)
        self.path = self.path_format  # as metrics and the audit log name it
        self.methods = None
        self.endpoints = endpoints

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call; errors are for those to handle who handle them for all routes."""
        method = scope["method"]
        call = self.endpoints.get("GET" if method == "HEAD" else method)
        if call is None:
            raise HTTPException(405, headers={"Allow": ", ".join(self.endpoints)})
        response = await call(Request(scope, receive, send))
        await response(scope, receive, send)


def served_routes(routers: Sequence[APIRouter]) -> list[Calls]:
    """Return the routers' calls as plain routes, in their order, one a path."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                by_path.setdefault(route.path, {}).update(dict.fromkeys(route.methods or (), route.endpoint))
    return [Calls(path, endpoints) for path, endpoints in by_path.items()]


def description_pages(routers: Sequence[APIRouter], *, title: str, about: str) -> list[BaseRoute]:
    """Return `/openapi.json` and `/docs`, which needs nothing from elsewhere, as they describe the routers' calls."""
    described = FastAPIOffline(title=title, version="0.1.0", description=about, docs_url=None, redoc_url=None)
    files = [route for route in described.routes if isinstance(route, Mount)]
    return [Route("/docs", _docs_page(title)), Route("/openapi.json", _document_page(described, routers)), *files]


def _document_page(app: FastAPI, routers: Sequence[APIRouter]) -> Endpoint:
    made: bytes | None = None
    making = asyncio.Lock()

    def make() -> bytes:
        for router in routers:
            app.include_router(router)
        return bytes(JSONResponse(_complete_document(app)).body)

    async def document(_: Request) -> Response:
        nonlocal made
        async with making:
            if made is None:
                # A tenth of a second of work: for who asks, not for each start, and not in the event loop.
                made = await asyncio.to_thread(make)
        return Response(made, media_type="application/json")

    return document


def _docs_page(title: str) -> Endpoint:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    )
    body = bytes(page.body)
    headers = {"content-security-policy": _policy_of(body)}

    async def docs(_: Request) -> Response:
        return HTMLResponse(body, headers=headers)

    return docs


def _policy_of(page: bytes) -> str:
    """Return the Content-Security-Policy that lets the page run its own scripts and no others."""
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page)]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _complete_document(app: FastAPI) -> dict[str, Any]:
    """Return the document with the shapes of bodies and answers, and the bearer tokens; after the last route."""
    document = app.openapi()
    components = document.setdefault("components", {})
    shown: list[tuple[type[BaseModel], Literal["validation", "serialization"]]]
    shown = [(model, "serialization") for model in SHOWN_MODELS] + [(model, "validation") for model in TAKEN_MODELS]
    _, definitions = models_json_schema(shown, ref_template=REF)
    components.setdefault("schemas", {}).update(definitions["$defs"])
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": _ABOUT_TOKENS,
        }
    }
    return document
