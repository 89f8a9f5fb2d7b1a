"""What the descriptions of calls are made of: schemas, parameters, and the answers that all have."""

from typing import Any

from pydantic import BaseModel

from services.api_gateway import answer_models as shape
from services.api_gateway import examples
from services.api_gateway.bodies import BulkBody, CancelBody, CleanupBody, MessageBody
from services.api_gateway.erasure_answers import Erasure
from services.api_gateway.filters.grammar import MAX_CHARACTERS
from services.api_gateway.filters.meaning import FIELDS, METADATA
from services.api_gateway.job_answers import Job, JobItems
from services.api_gateway.persona_bodies import PersonaBody, PersonaTestBody
from services.api_gateway.scopes import Scope
from services.api_gateway.template_answers import Template, TemplateList
from services.api_gateway.template_bodies import TemplateBody
from services.contracts.session import SessionStatus

REF = "#/components/schemas/{model}"
PROBLEM = REF.format(model="ProblemDetails")
SHOWN_MODELS: list[type[BaseModel]] = [
    shape.Accepted, shape.LeftSession, shape.ReplyPiece,
    shape.Session, shape.EndedSession, shape.SessionDetail, shape.SessionList, shape.Statistics, shape.Sweep,
    shape.History, Job, JobItems, shape.SweepAsked, shape.Persona, shape.PersonaList, shape.CallbackTaken,
    shape.AuditList, Erasure, Template, TemplateList, shape.ProblemDetails,
]  # fmt: skip
TAKEN_MODELS: list[type[BaseModel]] = [
    MessageBody, BulkBody, CancelBody, CleanupBody, PersonaBody, PersonaTestBody, TemplateBody,
]  # fmt: skip

_PROBLEMS = {
    400: "A field, a parameter or a header is not what this call takes; `errors` names each",
    401: "No valid token",
    403: "Only for admins, or the token is not for this scope",
    404: "There is none, or it is someone else's",
    408: "The body did not arrive in time",
    409: "It is too late, or too early",
    410: "The callback's deadline has passed",
    412: "The session is not as `If-Match` says any more; `session` is the current one",
    413: "The body is larger than the 256 KiB (of a callback 512 KiB) that a call takes",
    415: "The body is compressed",
    422: "The Idempotency-Key belongs to another request",
    429: "Too many requests; Retry-After says when to try again",
    503: "Kafka, PostgreSQL or the tracker is not there at the moment or too slow, or session endpoints are turned off",
}

TEXT = {"type": "string"}
NAME = {"type": "string", "minLength": 1, "maxLength": 128}
TIME = {"type": "string", "format": "date-time"}
_ANY_STATUS = f"({'|'.join(SessionStatus)})"
STATUSES = {"type": "string", "pattern": f"^{_ANY_STATUS}(,{_ANY_STATUS})*$"}
UUID = {"type": "string", "format": "uuid"}
CURSOR = {"type": "string", "minLength": 1, "maxLength": 64}
TAG = {"type": "string", "pattern": r'^(W/)?"[!#-~]{0,64}"$'}
TIMED_CURSOR = {"type": "string", "pattern": "^AA[A-Za-z0-9_-]{30}$"}
WAIT = {"type": "number", "minimum": 0, "maximum": 60, "default": 0}


def parameter(name: str, place: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    """Return a parameter of a call; `place` is path, query or header."""
    return {"name": name, "in": place, "schema": schema, "description": about, "required": place == "path"}


def call(
    summary: str,
    about: str,
    answers: dict[int, tuple[str, str | None, Any]],
    *,
    parameters: tuple[dict[str, Any], ...] = (),
    problems: tuple[int, ...] = (),
    body: tuple[type[BaseModel], Any, bool] | None = None,
    scope: Scope | None = None,
) -> dict[str, Any]:
    """Return what add_api_route() takes. An answer is its description, its model's name and an example.

    `scope` is what a token must be for; None where the call takes no token.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for status, (description, shown, example) in answers.items():
        responses[status] = {"description": description}
        if shown is not None:
            schema = {"$ref": REF.format(model=shown)}
            kind = "application/problem+json" if shown == "ProblemDetails" else "application/json"
            responses[status]["content"] = {kind: {"schema": schema, "example": example}}
    always = {400, 429, 503} if scope is None else {400, 401, 403, 429, 503}
    of_bodies = {415} if 413 in problems else set()
    for status in sorted({*always, *of_bodies, *problems} - set(answers)):
        content = {"application/problem+json": {"schema": {"$ref": PROBLEM}}}
        responses[status] = {"description": _PROBLEMS[status], "content": content}
    extra: dict[str, Any] = {"parameters": list(parameters), "security": [{"bearer": [scope]}] if scope else []}
    if body is not None:
        taken, example, required = body
        schema = {"$ref": REF.format(model=taken.__name__)}
        extra["requestBody"] = {
            "required": required,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    return {
        "summary": summary,
        "description": about,
        "status_code": min(answers),
        "responses": responses,
        "openapi_extra": extra,
    }


CONVERSATION = parameter("conversationId", "path", NAME, "Chosen by the application")
SESSION_ID = parameter("sessionId", "path", UUID, "As the POST answered it")
PERSONA_ID = parameter("personaId", "path", NAME, "Chosen by the admin")
Q = parameter(
    "q",
    "query",
    {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "examples": [examples.FILTER]},
    "Terms `field:value`, ANDed; `OR`, parentheses, `-` or `NOT`; `>`, `>=`, `<`, `<=` and `low..high` for numbers and "
    'times; `"quoted text"` is looked for in error messages, whatever the case. Fields: '
    + ", ".join(f"`{name}`" for name in FIELDS if name != METADATA)
    + ", `metadata.KEY`; `user` for admins. At most 50 values, 10 levels deep. Beside other parameters both hold.",
)
KEY = parameter("Idempotency-Key", "header", NAME, "Makes repeats of this request one, for 24 hours")
STATUS = parameter("status", "query", STATUSES, "One or more statuses, separated by commas")
FROM = parameter("from", "query", TIME, "Started at this time or later, to the millisecond; UTC without a zone")
TO = parameter("to", "query", TIME, "Started before this time, which is not before `from`")
OF_PERSONA = parameter("personaId", "query", NAME, "Sessions with this persona")
SORT = parameter(
    "sort",
    "query",
    {"enum": ["-startedAt", "startedAt", "-responseMs"], "default": "-startedAt"},
    "Newest, oldest or slowest first; slowest within a range of at most 31 days",
)
FILTER = (
    Q,
    STATUS,
    OF_PERSONA,
    parameter("conversationId", "query", NAME, "Sessions of this conversation"),
    parameter("userId", "query", NAME, "Sessions of this user, `*` for everyone's (admins)"),
    FROM,
    TO,
)
PAGE = (
    SORT,
    parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "Of one page"),
    parameter("offset", "query", {"type": "integer", "minimum": 0, "maximum": 10_000, "default": 0}, "For small pages"),
    parameter(
        "cursor", "query", CURSOR, "The nextCursor of the page before, of the same filter and sort; at any depth"
    ),
)
HISTORY_PAGE = (PAGE[1], parameter("cursor", "query", TIMED_CURSOR, "The nextCursor of the page before"))
SENDING = (
    parameter("wait", "query", WAIT, "Seconds to wait for the session's end"),
    KEY,
    parameter("traceparent", "header", TEXT, "W3C trace context, continued to the webhook"),
)
