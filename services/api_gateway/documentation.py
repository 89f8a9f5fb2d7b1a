"""What the OpenAPI document says of each call."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel

from services.api_gateway import answer_models as shape
from services.api_gateway import examples
from services.api_gateway.bodies import BulkBody, CancelBody, CleanupBody, MessageBody
from services.api_gateway.filters.grammar import MAX_CHARACTERS
from services.api_gateway.filters.meaning import FIELDS, METADATA
from services.api_gateway.persona_bodies import PersonaBody, PersonaTestBody
from services.api_gateway.scopes import Scope
from services.contracts.session import SessionStatus

REF = "#/components/schemas/{model}"
PROBLEM = REF.format(model="ProblemDetails")
SHOWN_MODELS: list[type[BaseModel]] = [
    shape.Accepted,
    shape.Session, shape.EndedSession, shape.SessionDetail, shape.SessionList, shape.Statistics, shape.Sweep,
    shape.History, shape.Job, shape.JobItems, shape.SweepAsked, shape.Persona, shape.PersonaList, shape.CallbackTaken,
    shape.AuditList, shape.ProblemDetails,
]  # fmt: skip
TAKEN_MODELS: list[type[BaseModel]] = [MessageBody, BulkBody, CancelBody, CleanupBody, PersonaBody, PersonaTestBody]

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


def _parameter(name: str, place: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": place, "schema": schema, "description": about, "required": place == "path"}


def _call(
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
    for status in sorted({*always, *problems} - set(answers)):
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


_CONVERSATION = _parameter("conversationId", "path", NAME, "Chosen by the application")
_SESSION_ID = _parameter("sessionId", "path", UUID, "As the POST answered it")
_PERSONA_ID = _parameter("personaId", "path", NAME, "Chosen by the admin")
_Q = _parameter(
    "q",
    "query",
    {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "examples": [examples.FILTER]},
    "Terms `field:value`, ANDed; `OR`, parentheses, `-` or `NOT`; `>`, `>=`, `<`, `<=` and `low..high` for numbers and "
    'times; `"quoted text"` is looked for in error messages, whatever the case. Fields: '
    + ", ".join(f"`{name}`" for name in FIELDS if name != METADATA)
    + ", `metadata.KEY`; `user` for admins. At most 50 values, 10 levels deep. Beside other parameters both hold.",
)
_KEY = _parameter("Idempotency-Key", "header", NAME, "Makes repeats of this request one, for 24 hours")
_STATUS = _parameter("status", "query", STATUSES, "One or more statuses, separated by commas")
_FROM = _parameter("from", "query", TIME, "Started at this time or later, to the millisecond; UTC without a zone")
_TO = _parameter("to", "query", TIME, "Started before this time")
_OF_PERSONA = _parameter("personaId", "query", NAME, "Sessions with this persona")
_SORT = _parameter(
    "sort",
    "query",
    {"enum": ["-startedAt", "startedAt", "-responseMs"], "default": "-startedAt"},
    "Newest, oldest or slowest first; slowest within a range of at most 31 days",
)
_FILTER = (
    _Q,
    _STATUS,
    _OF_PERSONA,
    _parameter("conversationId", "query", NAME, "Sessions of this conversation"),
    _parameter("userId", "query", NAME, "Sessions of this user, `*` for everyone's (admins)"),
    _FROM,
    _TO,
)
_PAGE = (
    _SORT,
    _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "Of one page"),
    _parameter(
        "offset", "query", {"type": "integer", "minimum": 0, "maximum": 10_000, "default": 0}, "For small pages"
    ),
    _parameter(
        "cursor", "query", CURSOR, "The nextCursor of the page before, of the same filter and sort; at any depth"
    ),
)
_HISTORY_PAGE = (_PAGE[1], _parameter("cursor", "query", TIMED_CURSOR, "The nextCursor of the page before"))
_SENDING = (
    _parameter("wait", "query", WAIT, "Seconds to wait for the session's end"),
    _KEY,
    _parameter("traceparent", "header", TEXT, "W3C trace context, continued to the webhook"),
)

SEND_MESSAGE = _call(
    "Send a message to a persona",
    "Accepted once Kafka has acknowledged it. The first to write in a conversation owns it. With an `Idempotency-Key` "
    "repeats of the request, byte for byte, are one session for 24 hours. If Kafka does not acknowledge, 503 "
    "`not-acknowledged` carries the `sessionId`, and the outcome is unknown.",
    {
        200: ("The session has ended within `wait`", "EndedSession", {**examples.SESSION, "reply": "You said: hello"}),
        202: ("Accepted; `Location` is the session", "Accepted", examples.ACCEPTED),
    },
    parameters=(_CONVERSATION, *_SENDING),
    problems=(404, 408, 409, 413, 422),
    body=(MessageBody, {"personaId": "support", "message": "hello", "metadata": {"channel": "web"}}, True),
    scope=Scope.MESSAGES_WRITE,
)
RETRY_SESSION = _call(
    "Send a session's message again",
    "For sessions that ended without a reply: FAILED, TIMEOUT or CANCELLED. The new session has the same message, "
    "metadata, persona, conversation and user, and the old one as `resumedFrom`; the old one stays as it is. 409 "
    "`not-retryable` for other statuses, 409 `no-message` where the text has been erased.",
    {
        200: ("The new session has ended within `wait`", "EndedSession", {**examples.RETRIED, "reply": "hello"}),
        202: ("Accepted; `Location` is the new session", "Accepted", examples.ACCEPTED),
    },
    parameters=(_SESSION_ID, *_SENDING),
    problems=(404, 408, 409, 413, 422),
    scope=Scope.MESSAGES_WRITE,
)
LIST_SESSIONS = _call(
    "List sessions",
    "One's own, newest first; an admin may ask for a user's, or for everyone's. A filter that means nothing is 400 "
    "`invalid-filter` with the place and what could stand there. A query that takes over 5 s is 503 `too-slow`.",
    {200: ("One page", "SessionList", examples.SESSIONS)},
    parameters=(*_FILTER, *_PAGE),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
EXPORT_SESSIONS = _call(
    "Export sessions",
    "Everything that the filter finds, as a file that is streamed; gzip by `Accept-Encoding`. For an admin everyone's "
    "sessions, unless he names a user. In CSV a text that a spreadsheet would run as a formula begins with `'`. An "
    "answer that is broken off is not the whole. A gateway writes four at a time; another is 503 `too-many-exports`.",
    {200: ("The sessions, one a line", None, None)},
    parameters=(
        *_FILTER,
        _SORT,
        _parameter("format", "query", {"enum": ["ndjson", "csv"], "default": "ndjson"}, "JSON lines, or a table"),
    ),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
EXPORT_SESSIONS["response_class"] = Response  # which promises no JSON
EXPORT_SESSIONS["responses"][200]["content"] = {
    "application/x-ndjson": {"schema": {"$ref": REF.format(model="Session")}, "example": examples.SESSION},
    "text/csv": {"schema": TEXT, "example": examples.SESSIONS_AS_CSV},
}
LIST_CONVERSATION = _call(
    "List a conversation's sessions",
    "The ACTIVE ones, unless `status` asks for others.",
    {200: ("One page", "SessionList", examples.ACTIVE_SESSIONS)},
    parameters=(_CONVERSATION, _STATUS, *_PAGE),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
GET_SESSION = _call(
    "Get a session",
    "With its messages and everything that happened to it. A session sent a moment ago is waited for; where the "
    "tracker has not told of it within 3 s the answer is 503 `not-yet-tracked`. The `ETag` changes with all that is "
    "told but `durationMs`; give it as `If-None-Match` to be told 304 until it does.",
    {200: (
        "The session",
        "SessionDetail",
        {
            **examples.SESSION,
            "messages": [{"role": "user", "content": "hello", "createdAt": examples.WHEN}],
            "timeline": examples.HISTORY,
            "timelineCursor": None,
            "durationMs": 1250,
        },
    ), 304: ("It is as `If-None-Match` says", None, None)},
    parameters=(
        _SESSION_ID,
        _parameter("wait", "query", WAIT, "Seconds to wait for the session's end"),
        _parameter("If-None-Match", "header", TEXT, "The `ETag` of an earlier answer"),
    ),
    problems=(404,),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
GET_HISTORY = _call(
    "Get a session's events",
    "In the order of their times, page by page.",
    {200: ("One page", "History", {"items": examples.HISTORY, "nextCursor": None})},
    parameters=(_SESSION_ID, *_HISTORY_PAGE),
    problems=(404,),
    scope=Scope.SESSIONS_READ,
)
CANCEL_SESSION = _call(
    "Cancel a session",
    "Answers with what really became of it; may be repeated. The body may be left out. With `If-Match` only a session "
    "that is still as its reader saw it when the cancel is asked for is cancelled: else 412 `session-changed`.",
    {
        200: ("The session is CANCELLED", "Session", examples.CANCELLED),
        202: ("The tracker has not told yet; look at `Location`", "Session", {**examples.SESSION, "status": "ACTIVE"}),
        409: ("It had ended otherwise; `session` is the current one", "ProblemDetails", examples.ALREADY_ENDED),
    },
    parameters=(
        _SESSION_ID,
        _parameter("If-Match", "header", TAG, "The session's `ETag`, or its version in quotes"),
    ),
    problems=(404, 408, 412, 413),
    body=(CancelBody, {"reason": "asked twice"}, False),
    scope=Scope.SESSIONS_CANCEL,
)  # fmt: skip
_JOB_ID = _parameter("jobId", "path", UUID, "As the POST answered it")
_ITEMS_PAGE = (_PAGE[1], _parameter("cursor", "query", UUID, "The nextCursor of the page before"))
START_JOB = _call(
    "Cancel or retry many sessions",
    "For admins. Looks at the sessions that a filter finds, of everyone and from before the job, or at up to 1,000 by "
    "`ids`, the oldest first, and skips those with which there is nothing to do. Outlives a gateway.",
    {202: ("It goes on; look at `Location`", "Job", examples.JOB)},
    parameters=(_KEY,),
    problems=(408, 409, 413, 422),
    body=(BulkBody, {"action": "retry", "filter": "status:FAILED failure:timeout persona:support"}, True),
    scope=Scope.SESSIONS_BULK,
)
GET_JOB = _call(
    "Look at a bulk job",
    "For admins.",
    {200: ("The job", "Job", examples.JOB)},
    parameters=(_JOB_ID,),
    problems=(404,),
    scope=Scope.SESSIONS_BULK,
)
GET_JOB_ITEMS = _call(
    "Get what became of each session of a bulk job",
    "For admins. In the order of the sessions, as far as the job is.",
    {200: ("One page", "JobItems", {"items": [examples.JOB_ITEM], "nextCursor": None})},
    parameters=(_JOB_ID, *_ITEMS_PAGE),
    problems=(404,),
    scope=Scope.SESSIONS_BULK,
)
CANCEL_JOB = _call(
    "Cancel a bulk job",
    "For admins. What it has done stays done. A job that has ended stays as it is.",
    {200: ("The job", "Job", {**examples.JOB, "state": "cancelled"})},
    parameters=(_JOB_ID,),
    problems=(404,),
    scope=Scope.SESSIONS_BULK,
)
GET_STATISTICS = _call(
    "Get statistics",
    "Of the sessions that started within the range: one's own, for an admin everyone's or those of one user. Exact for "
    "any range; percentiles are within 2 %. Of `q` they take `persona`, `user` and `startedAt`, each once.",
    {200: ("The statistics", "Statistics", examples.STATISTICS)},
    parameters=(
        _Q,
        _OF_PERSONA,
        _parameter("userId", "query", NAME, "Sessions of this user (others than oneself: admins)"),
        _FROM,
        _TO,
        _parameter(
            "interval",
            "query",
            {"enum": ["minute", "hour", "day"]},
            "Adds a series by UTC minutes, hours or days, at most 1,000; needs from",
        ),
        _parameter(
            "groupBy",
            "query",
            {"enum": ["persona", "status", "failureKind"]},
            "Adds groups: the statistics of each persona, or the number of sessions of each status or kind of failure",
        ),
    ),
    scope=Scope.STATS_READ,
)
CLEAN_UP = _call(
    "Time out inactive sessions",
    "For admins. Waits some seconds for the sweep to end.",
    {
        200: ("The sweep has ended", "Sweep", examples.SWEEP),
        202: (
            "It goes on; look at `Location`",
            "SweepAsked",
            {"sweepId": examples.ID, "asOf": examples.WHEN, "dryRun": False},
        ),
    },
    parameters=(_KEY,),
    problems=(408, 409, 413, 422),
    body=(CleanupBody, {"maxAgeHours": 24}, False),
    scope=Scope.SESSIONS_CLEANUP,
)
GET_CLEANUP = _call(
    "Look at a cleanup",
    "For admins. It has ended when `finishedAt` is set.",
    {200: ("The sweep", "Sweep", examples.SWEEP)},
    parameters=(_parameter("sweepId", "path", UUID, "As the POST answered it"),),
    problems=(404,),
    scope=Scope.SESSIONS_CLEANUP,
)
PUT_PERSONA = _call(
    "Make or replace a persona",
    "For admins. The address is checked against the egress rules at once. Credentials are encrypted and never shown; "
    "a PUT without `auth` or `signingKeys` removes them.",
    {200: ("The persona", "Persona", examples.PERSONA)},
    parameters=(_PERSONA_ID,),
    problems=(408, 413),
    body=(
        PersonaBody,
        {
            "webhookUrl": "https://n8n.example.com/webhook/support",
            "auth": {"type": "header", "name": "x-api-key", "value": "secret"},
        },
        True,
    ),
    scope=Scope.PERSONAS_WRITE,
)
GET_PERSONA = _call(
    "Get a persona",
    "For admins.",
    {200: ("The persona", "Persona", examples.PERSONA)},
    parameters=(_PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_READ,
)
DELETE_PERSONA = _call(
    "Delete a persona",
    "For admins. Messages to it fail from then on.",
    {204: ("Deleted", None, None)},
    parameters=(_PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_WRITE,
)
LIST_PERSONAS = _call(
    "List personas",
    "For admins, by id.",
    {200: ("One page", "PersonaList", {"items": [examples.PERSONA], "nextCursor": None})},
    parameters=(_PAGE[1], _parameter("cursor", "query", NAME, "The nextCursor of the page before")),
    scope=Scope.PERSONAS_READ,
)
READ_AUDIT = _call(
    "Read the audit log",
    "For admins, the newest entries first: administrative and destructive acts, done and refused, and webhook calls "
    "that failed for good. End users stand in it by a keyed hash: ask for one by `userId`.",
    {200: ("One page", "AuditList", {"items": [examples.AUDIT_ENTRY], "nextCursor": None})},
    parameters=(
        _parameter("actor", "query", NAME, "Entries of this admin, service or process, by name"),
        _parameter("userId", "query", NAME, "Entries of this end user"),
        _parameter("action", "query", NAME, "Such as persona.put, session.cancel, cleanup, webhook.call"),
        _parameter("outcome", "query", NAME, "Such as done, refused, failed"),
        _parameter("from", "query", TIME, "Written at this time or later; UTC without a zone"),
        _parameter("to", "query", TIME, "Written before this time"),
        _PAGE[1],
        _parameter("cursor", "query", TIMED_CURSOR, "The nextCursor of the page before"),
    ),
    scope=Scope.AUDIT_READ,
)
PAUSE_PERSONA = _call(
    "Pause a persona",
    "For admins. Within some seconds no further call of it begins; running ones go on. Its messages are accepted and "
    "wait, in order, each for as long as its session may last without activity; a PUT leaves the persona paused.",
    {200: ("The persona", "Persona", {**examples.PERSONA, "paused": True})},
    parameters=(_PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_WRITE,
)
RESUME_PERSONA = _call(
    "Resume a persona",
    "For admins. What waits is called, as many at a time as its webhook takes.",
    {200: ("The persona", "Persona", examples.PERSONA)},
    parameters=(_PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_WRITE,
)
TEST_PERSONA = _call(
    "Try a persona",
    "For admins. Sends a real message, in a conversation of its own, by the way of every other: a session of the "
    "admin's, with `test`: true in its metadata. It counts as a message to the limits and in statistics.",
    {
        200: ("The session has ended within `wait`", "EndedSession", {**examples.TESTED, "reply": "You said: hello"}),
        202: ("It goes on; look at `Location`", "Accepted", examples.ACCEPTED),
    },
    parameters=(
        _PERSONA_ID,
        _parameter("wait", "query", {**WAIT, "default": 30}, "Seconds to wait for the session's end"),
        *_SENDING[1:],
    ),
    problems=(404, 408, 409, 413, 422),
    body=(PersonaTestBody, {"message": "hello"}, False),
    scope=Scope.PERSONAS_WRITE,
)
POST_CALLBACK = _call(
    "Reply by callback",
    "For the workflow of a persona with `callbackSeconds`: the whole address is the `callbackUrl` in the body of its "
    "webhook call, and needs no other credentials. The reply is read as a webhook's answer is; an object with an "
    "`error` fails the session as `workflow-error`. The first post of a session counts, and its repeats change "
    "nothing. A session that ended meanwhile stays as it is: the post is then in its timeline, marked late. A body "
    "that is no reply is 400 and changes nothing.",
    {202: ("Kafka has the reply", "CallbackTaken", {"sessionId": examples.ID})},
    parameters=(_parameter("token", "path", TEXT, "The last part of the callbackUrl"),),
    problems=(404, 408, 410, 413),
)
POST_CALLBACK["openapi_extra"] |= {
    "requestBody": {"required": True, "content": {
        "application/json": {
            "schema": {"description": "Read as a webhook's answer is"},
            "examples": {"reply": {"value": {"reply": "Here is your report."}},
                         "failure": {"value": {"error": "The report service is away."}}},
        },
        "text/plain": {"schema": TEXT, "example": "Here is your report."},
    }},
}  # fmt: skip
