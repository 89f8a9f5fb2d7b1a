"""The shapes of answers about templates, for the OpenAPI document."""

from datetime import datetime
from typing import Any

from pydantic import Field

from services.api_gateway.answer_models import Shape
from services.contracts.policy import CallPolicy


class Template(Shape):
    """One version of a template."""

    template_id: str
    version: int
    persona_id: str
    call_policy: CallPolicy = Field(description="What is absent is the persona's own")
    metadata: dict[str, Any]
    tags: list[str]
    created_by: str
    created_at: datetime


class TemplateList(Shape):
    """One page of templates, or of the versions of one."""

    items: list[Template]
    next_cursor: str | None
