"""Errors as problem details (RFC 9457), each with a stable `code`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import UUID

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from services.api_gateway.answers import session_location
from services.api_gateway.database import DatabaseAway, StatementStopped
from services.api_gateway.traces import trace_id, traceparent_of
from services.contracts import NotAdmitted
from services.runtime.http_titles import title_of
from services.runtime.kafka import NotAcknowledged
from services.runtime.logs import about

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SAFE_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Problem(Exception):
    """Answers the request with this problem. `detail` is a whole sentence; `members` stand beside it in the body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})


def invalid_body(field: str, message: str) -> Problem:
    """The problem of a body with one wrong field."""
    return wrong_fields([{"field": field, "message": message}])


def wrong_fields(errors: Sequence[Mapping[str, str]]) -> Problem:
    """The problem of a body with these wrong fields, each a `field` and a `message`."""
    told = " ".join(f"{error['field']}: {error['message']}" for error in errors)
    return Problem(400, "invalid-body", f"The body is not what this call takes: {told}", members={"errors": errors})


def invalid_parameter(name: str, message: str) -> Problem:
    """The problem of a wrong path or query parameter, or a wrong header."""
    return Problem(
        400, "invalid-parameter", f"{name}: {message}", members={"errors": [{"field": name, "message": message}]}
    )


def invalid_cursor() -> Problem:
    """The problem of a cursor that is of no earlier answer to the same question."""
    return invalid_parameter("cursor", "Give the nextCursor of an earlier answer, unchanged.")


def no_such_session() -> Problem:
    """The problem of a session that is not there, or is not the caller's to see."""
    return Problem(404, "no-such-session", "You have no session with this id.")


def no_such_persona(persona_id: str) -> Problem:
    """The problem of a persona that is not there."""
    address = f"/api/personas/{quote(persona_id, safe='')}"
    return Problem(404, "no-such-persona", f"There is no persona {persona_id!r}; PUT {address} makes it.")


def no_such_template(template_id: str) -> Problem:
    """The problem of a template that is not there."""
    return Problem(404, "no-such-template", f"There is no template {template_id!r}.")


def no_such_version(template_id: str, version: int | None) -> Problem:
    """The problem of a template that has not this version; None is of no version that there can be."""
    which = "of this name" if version is None else str(version)
    return Problem(404, "no-such-template", f"Template {template_id!r} has no version {which}.")


def not_acknowledged(error: NotAcknowledged, session_id: UUID, what_now: str) -> Problem:
    """The problem of an event of this session that Kafka may have or not; `what_now` tells the client what to do."""
    return Problem(
        503,
        "not-acknowledged",
        f"{error} {what_now}",
        headers={"retry-after": "5", "location": session_location(session_id)},
        members={"sessionId": session_id},
    )


def problem_response(problem: Problem, scope: Scope) -> Response:
    """Return the answer that tells the problem, and the trace of the request that met it."""
    body = {
        "type": "about:blank",
        "title": title_of(problem.status),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "traceId": trace_id(scope),
        **problem.members,
    }
    return Response(to_json(body), problem.status, problem.headers, MEDIA_TYPE)


def answer_problems(app: Starlette) -> None:
    """Make `app` answer every error with a problem, never with a stack trace."""
    app.add_exception_handler(Problem, _told)
    app.add_exception_handler(NotAdmitted, _not_admitted)
    app.add_exception_handler(DatabaseAway, _database_away)
    app.add_exception_handler(StatementStopped, _statement_stopped)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101
    return problem_response(error, request.scope)


async def _not_admitted(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotAdmitted)  # noqa: S101
    field = error.explanation.partition(" ")[0]
    return problem_response(
        Problem(
            400, error.reason, error.explanation, members={"errors": [{"field": field, "message": error.explanation}]}
        ),
        request.scope,
    )


async def _database_away(request: Request, error: Exception) -> Response:
    return problem_response(Problem(503, "database-away", str(error), headers={"retry-after": "1"}), request.scope)


async def _statement_stopped(request: Request, error: Exception) -> Response:
    return problem_response(Problem(503, "too-slow", str(error)), request.scope)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 404:
        problem = Problem(404, "no-such-route", "Nothing is at this address; /docs lists every call.")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"This address takes {allowed.replace(', ', ' or ')}, not {request.method}."
        problem = Problem(405, "method-not-allowed", detail, headers=error.headers)
    else:
        problem = Problem(error.status_code, "http-error", f"{error.detail}.", headers=error.headers)
    return problem_response(problem, request.scope)


async def _gone(request: Request, _: Exception) -> Response:
    return problem_response(Problem(400, "client-gone", "The connection ended before the body did."), request.scope)


async def _bug(request: Request, error: Exception) -> Response:
    # One request's bug must not take the process from everyone else; the server logs it with its trace.
    # By the route's template: a path may be a credential.
    route = getattr(request.scope.get("route"), "path", None) or "unknown"
    trace = about(None, traceparent_of(request.scope))
    logger.error("A bug in %s %s: %s", request.method, route, type(error).__name__, extra=trace)
    return problem_response(
        Problem(500, "internal-error", "The gateway failed on this request; its log says why.", headers=SAFE_HEADERS),
        request.scope,
    )
