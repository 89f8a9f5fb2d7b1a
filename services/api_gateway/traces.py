"""The trace that a request belongs to: what it was given, or its own."""

from starlette.types import Scope

from services.runtime.tracing import continued, trace_id_of

_KEY = "chat-sessions.traceparent"


def given_traceparent(scope: Scope) -> str | None:
    """Return the header as it was sent."""
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return str(value, "latin-1")
    return None


def join_trace(scope: Scope, traceparent: str) -> None:
    """Let the request go on from this step of a trace."""
    scope[_KEY] = traceparent


def trace_so_far(scope: Scope) -> str | None:
    """Return what the request has handed on or was given; None where it has no trace yet."""
    return scope.get(_KEY) or given_traceparent(scope)


def traceparent_of(scope: Scope) -> str:
    """Return what the request hands on: the same each time, a trace of its own where none was given."""
    traceparent: str | None = scope.get(_KEY)
    if traceparent is None:
        traceparent = scope[_KEY] = continued(given_traceparent(scope))
    return traceparent


def trace_id(scope: Scope) -> str | None:
    """Return the id of the request's trace."""
    return trace_id_of(traceparent_of(scope))
