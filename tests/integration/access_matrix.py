"""What every route needs, and what becomes of calls of it by whom: the rows of the test of access."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.api_gateway.scopes import Scope


@dataclass(frozen=True)
class Call:
    """A call that takes a token: what it needs, and what becomes of it.

    `path` may name a session of ada's, her conversation, a sweep, a persona, or a template. `owner`, `other` and
    `admin` are the answers to ada, to another user, and to an admin.
    """

    scope: Scope
    path: str
    owner: int
    other: int
    admin: int
    body: Mapping[str, Any] | None = None


CALLS: Mapping[tuple[str, str], Call] = {
    ("POST", "/api/conversations/{conversationId}/messages"): Call(
        Scope.MESSAGES_WRITE,
        "/api/conversations/{conversation}/messages",
        *(202, 404, 404),
        {"personaId": "echo", "message": "hi"},
    ),
    ("GET", "/api/conversations/{conversationId}/chat-sessions"): Call(
        Scope.SESSIONS_READ, "/api/conversations/{conversation}/chat-sessions?status=CANCELLED", 200, 200, 200
    ),
    ("GET", "/api/chat-sessions"): Call(Scope.SESSIONS_READ, "/api/chat-sessions?userId=ada", 200, 403, 200),
    ("GET", "/api/chat-sessions/export"): Call(
        Scope.SESSIONS_READ, "/api/chat-sessions/export?userId=ada", 200, 403, 200
    ),
    ("GET", "/api/chat-sessions/live"): Call(Scope.SESSIONS_READ, "/api/chat-sessions/live?userId=ada", 200, 403, 200),
    ("GET", "/api/chat-sessions/{sessionId}/live"): Call(
        Scope.SESSIONS_READ, "/api/chat-sessions/{session}/live", 200, 404, 200
    ),
    ("GET", "/api/chat-sessions/stats"): Call(Scope.STATS_READ, "/api/chat-sessions/stats?userId=ada", 200, 403, 200),
    ("GET", "/api/chat-sessions/{sessionId}"): Call(Scope.SESSIONS_READ, "/api/chat-sessions/{session}", 200, 404, 200),
    ("PATCH", "/api/chat-sessions/{sessionId}/cancel"): Call(
        Scope.SESSIONS_CANCEL, "/api/chat-sessions/{session}/cancel", 200, 404, 200
    ),
    ("GET", "/api/chat-sessions/{sessionId}/events"): Call(
        Scope.SESSIONS_READ, "/api/chat-sessions/{session}/events", 200, 404, 200
    ),
    ("POST", "/api/chat-sessions/{sessionId}/retry"): Call(
        Scope.MESSAGES_WRITE, "/api/chat-sessions/{session}/retry", 202, 404, 202
    ),
    ("POST", "/api/chat-sessions/cleanup"): Call(
        Scope.SESSIONS_CLEANUP, "/api/chat-sessions/cleanup", 403, 403, 202, {"dryRun": True}
    ),
    ("GET", "/api/chat-sessions/cleanup/{sweepId}"): Call(
        Scope.SESSIONS_CLEANUP, "/api/chat-sessions/cleanup/{sweep}", 403, 403, 200
    ),
    ("POST", "/api/chat-sessions/bulk"): Call(
        Scope.SESSIONS_BULK,
        "/api/chat-sessions/bulk",
        *(403, 403, 202),
        {"action": "cancel", "filter": "status:ACTIVE", "dryRun": True},
    ),
    ("GET", "/api/chat-sessions/bulk/{jobId}"): Call(
        Scope.SESSIONS_BULK, "/api/chat-sessions/bulk/{job}", 403, 403, 200
    ),
    ("GET", "/api/chat-sessions/bulk/{jobId}/items"): Call(
        Scope.SESSIONS_BULK, "/api/chat-sessions/bulk/{job}/items", 403, 403, 200
    ),
    ("PATCH", "/api/chat-sessions/bulk/{jobId}/cancel"): Call(
        Scope.SESSIONS_BULK, "/api/chat-sessions/bulk/{job}/cancel", 403, 403, 200
    ),
    ("GET", "/api/personas"): Call(Scope.PERSONAS_READ, "/api/personas", 403, 403, 200),
    ("GET", "/api/personas/{personaId}"): Call(Scope.PERSONAS_READ, "/api/personas/{persona}", 403, 403, 200),
    ("PUT", "/api/personas/{personaId}"): Call(
        Scope.PERSONAS_WRITE, "/api/personas/{persona}", 403, 403, 200, {"webhookUrl": "https://192.0.2.1/w"}
    ),
    ("DELETE", "/api/personas/{personaId}"): Call(Scope.PERSONAS_WRITE, "/api/personas/{persona}", 403, 403, 204),
    ("POST", "/api/personas/{personaId}/pause"): Call(
        Scope.PERSONAS_WRITE, "/api/personas/{persona}/pause", 403, 403, 200
    ),
    ("POST", "/api/personas/{personaId}/resume"): Call(
        Scope.PERSONAS_WRITE, "/api/personas/{persona}/resume", 403, 403, 200
    ),
    ("POST", "/api/personas/{personaId}/test"): Call(
        Scope.PERSONAS_WRITE, "/api/personas/{persona}/test?wait=0", 403, 403, 202
    ),
    ("GET", "/api/templates"): Call(Scope.TEMPLATES_READ, "/api/templates", 403, 403, 200),
    ("GET", "/api/templates/{templateId}"): Call(Scope.TEMPLATES_READ, "/api/templates/{template}", 403, 403, 200),
    ("PUT", "/api/templates/{templateId}"): Call(
        Scope.TEMPLATES_WRITE, "/api/templates/{template}", 403, 403, 200, {"personaId": "p"}
    ),
    ("DELETE", "/api/templates/{templateId}"): Call(Scope.TEMPLATES_WRITE, "/api/templates/{template}", 403, 403, 204),
    ("GET", "/api/templates/{templateId}/versions"): Call(
        Scope.TEMPLATES_READ, "/api/templates/{template}/versions", 403, 403, 200
    ),
    ("GET", "/api/templates/{templateId}/versions/{version}"): Call(
        Scope.TEMPLATES_READ, "/api/templates/{template}/versions/1", 403, 403, 200
    ),
    ("GET", "/api/users/{userId}/data"): Call(Scope.USERS_READ, "/api/users/ada/data", 403, 403, 200),
    ("DELETE", "/api/users/{userId}/data"): Call(Scope.USERS_ERASE, "/api/users/ada/data", 403, 403, 202),
    ("GET", "/api/erasures/{erasureId}"): Call(Scope.USERS_ERASE, "/api/erasures/{erasure}", 403, 403, 200),
    ("GET", "/api/audit"): Call(Scope.AUDIT_READ, "/api/audit", 403, 403, 200),
}
OPEN: Mapping[tuple[str, str], tuple[str, int]] = {
    ("POST", "/api/callbacks/{token}"): ("/api/callbacks/{callback}", 202),
    ("GET", "/health/live"): ("/health/live", 200),
    ("GET", "/health/ready"): ("/health/ready", 200),
    ("GET", "/metrics"): ("/metrics", 200),
    ("GET", "/docs"): ("/docs", 200),
    ("GET", "/openapi.json"): ("/openapi.json", 200),
    ("GET", "/static-offline-docs"): ("/static-offline-docs/swagger-ui.css", 200),
}
"""Without a token; of a callback the address itself is the credential."""
