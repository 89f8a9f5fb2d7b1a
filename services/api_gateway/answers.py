"""Answers as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from fastapi import Response

from services.api_gateway.json_text import as_json


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the content as JSON."""
    return Response(as_json(content), status, headers, "application/json")


def page_answer(found: Sequence[Mapping[str, Any]], limit: int, cursor: str) -> Response:
    """Return a page of at most `limit`, of items of which one more was looked for.

    The next page goes on behind the last item's member `cursor`.
    """
    items = found[:limit]
    return answer({"items": items, "nextCursor": str(items[-1][cursor]) if len(found) > limit else None})


def unchanged(headers: Mapping[str, str]) -> Response:
    """Return the answer to a client that has it already."""
    return Response(status_code=304, headers=dict(headers))


def session_location(session_id: UUID) -> str:
    """Return where a session is."""
    return f"/api/chat-sessions/{session_id}"
