"""FastAPI describes the routes, Starlette serves them.

The endpoints read requests and build answers themselves, so FastAPI's own handling would run for nothing; what that
costs on an empty endpoint is in docs/decisions/0003-http-server.md.
"""

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Mount, Route

from services.api_gateway.documentation import REF, SHOWN_MODELS, TAKEN_MODELS


def served_routes(routers: Sequence[APIRouter]) -> list[BaseRoute]:
    """Return the routers' calls as plain routes."""
    return [
        Route(route.path, route.endpoint, methods=route.methods)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
    ]


def description_pages(routers: Sequence[APIRouter], *, title: str, about: str) -> list[BaseRoute]:
    """Return `/openapi.json` and `/docs`, which needs nothing from elsewhere, as they describe the routers' calls."""
    described = FastAPIOffline(title=title, version="0.1.0", description=about, redoc_url=None)
    files = [route for route in described.routes if isinstance(route, Mount)]
    for router in routers:
        described.include_router(router)
    _complete_document(described)
    return [Route("/docs", described), Route("/openapi.json", described), *files]


def _complete_document(app: FastAPI) -> None:
    """Put the shapes of bodies and answers, and the bearer tokens, into the document; after the last route."""
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
            "description": "Claims: `sub` is the user, `roles` may hold ADMIN, `exp` is needed.",
        }
    }
