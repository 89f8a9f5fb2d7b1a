"""Completes the OpenAPI document that FastAPI makes of the routes."""

from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.api_gateway.documentation import REF, SHOWN_MODELS, TAKEN_MODELS


def complete_document(app: FastAPI) -> None:
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
