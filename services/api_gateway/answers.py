"""Answers as JSON."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import Response

from services.api_gateway.json_text import as_json


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the content as JSON."""
    return Response(as_json(content), status, headers, "application/json")


def unchanged(headers: Mapping[str, str]) -> Response:
    """Return the answer to a client that has it already."""
    return Response(status_code=304, headers=dict(headers))


def session_location(session_id: UUID) -> str:
    """Return where a session is."""
    return f"/api/chat-sessions/{session_id}"
