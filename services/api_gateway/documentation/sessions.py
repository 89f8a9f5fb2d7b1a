"""What the OpenAPI document says of messages, sessions and statistics."""

from fastapi import Response

from services.api_gateway import examples
from services.api_gateway.bodies import BulkBody, CancelBody, MessageBody
from services.api_gateway.documentation.parts import (
    CONVERSATION,
    FILTER,
    FROM,
    HISTORY_PAGE,
    KEY,
    NAME,
    OF_PERSONA,
    PAGE,
    REF,
    SENDING,
    SESSION_ID,
    SORT,
    STATUS,
    TAG,
    TEXT,
    TO,
    UUID,
    WAIT,
    Q,
    call,
    parameter,
)
from services.api_gateway.scopes import Scope

SEND_MESSAGE = call(
    "Send a message to a persona",
    "Accepted once Kafka has acknowledged it. The first to write in a conversation owns it. With an `Idempotency-Key` "
    "repeats of the request, byte for byte, are one session for 24 hours. If Kafka does not acknowledge, 503 "
    "`not-acknowledged` carries the `sessionId`, and the outcome is unknown. With a `templateId` the template's latest "
    "version, or `templateVersion`, says the persona and how it is called, and adds its metadata and tags.",
    {
        200: ("The session has ended within `wait`", "EndedSession", {**examples.SESSION, "reply": "You said: hello"}),
        202: ("Accepted; `Location` is the session", "Accepted", examples.ACCEPTED),
    },
    parameters=(CONVERSATION, *SENDING),
    problems=(404, 408, 409, 413, 422),
    body=(MessageBody, {"personaId": "support", "message": "hello", "metadata": {"channel": "web"}}, True),
    scope=Scope.MESSAGES_WRITE,
)
RETRY_SESSION = call(
    "Send a session's message again",
    "For sessions that ended without a reply: FAILED, TIMEOUT or CANCELLED. The new session has the same message, "
    "metadata, persona, conversation and user, and the old one as `resumedFrom`; the old one stays as it is. 409 "
    "`not-retryable` for other statuses, 409 `no-message` where the text has been erased.",
    {
        200: ("The new session has ended within `wait`", "EndedSession", {**examples.RETRIED, "reply": "hello"}),
        202: ("Accepted; `Location` is the new session", "Accepted", examples.ACCEPTED),
    },
    parameters=(SESSION_ID, *SENDING),
    problems=(404, 408, 409, 413, 422),
    scope=Scope.MESSAGES_WRITE,
)
LIST_SESSIONS = call(
    "List sessions",
    "One's own, newest first; an admin may ask for a user's, or for everyone's. A filter that means nothing is 400 "
    "`invalid-filter` with the place and what could stand there. A query that takes over 5 s is 503 `too-slow`.",
    {200: ("One page", "SessionList", examples.SESSIONS)},
    parameters=(*FILTER, *PAGE),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
EXPORT_SESSIONS = call(
    "Export sessions",
    "Everything that the filter finds, as a file that is streamed; gzip by `Accept-Encoding`. For an admin everyone's "
    "sessions, unless `userId` names one. In CSV a text that a spreadsheet would run as a formula begins with `'`. An "
    "answer that is broken off is not the whole. A gateway writes four at a time; another is 503 `too-many-exports`.",
    {200: ("The sessions, one a line", None, None)},
    parameters=(
        *FILTER,
        SORT,
        parameter("format", "query", {"enum": ["ndjson", "csv"], "default": "ndjson"}, "JSON lines, or a table"),
    ),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
EXPORT_SESSIONS["response_class"] = Response  # which promises no JSON
EXPORT_SESSIONS["responses"][200]["content"] = {
    "application/x-ndjson": {"schema": {"$ref": REF.format(model="Session")}, "example": examples.SESSION},
    "text/csv": {"schema": TEXT, "example": examples.SESSIONS_AS_CSV},
}
LIST_CONVERSATION = call(
    "List a conversation's sessions",
    "The ACTIVE ones, unless `status` asks for others.",
    {200: ("One page", "SessionList", examples.ACTIVE_SESSIONS)},
    parameters=(CONVERSATION, STATUS, *PAGE),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
GET_SESSION = call(
    "Get a session",
    "With its messages and everything that happened to it. A session sent a moment ago is waited for; where the "
    "tracker has not told of it within 5 s the answer is 503 `not-yet-tracked`. The `ETag` changes with all that is "
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
        SESSION_ID,
        parameter("wait", "query", WAIT, "Seconds to wait for the session's end"),
        parameter("If-None-Match", "header", TEXT, "The `ETag` of an earlier answer"),
    ),
    problems=(404,),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
GET_HISTORY = call(
    "Get a session's events",
    "In the order of their times, page by page.",
    {200: ("One page", "History", {"items": examples.HISTORY, "nextCursor": None})},
    parameters=(SESSION_ID, *HISTORY_PAGE),
    problems=(404,),
    scope=Scope.SESSIONS_READ,
)
CANCEL_SESSION = call(
    "Cancel a session",
    "Answers with what really became of it; may be repeated. The body may be left out. With `If-Match` only a session "
    "that is still as its reader saw it when the cancel is asked for is cancelled: else 412 `session-changed`.",
    {
        200: ("The session is CANCELLED", "Session", examples.CANCELLED),
        202: ("The tracker has not told yet; look at `Location`", "Session", {**examples.SESSION, "status": "ACTIVE"}),
        409: ("It had ended otherwise; `session` is the current one", "ProblemDetails", examples.ALREADY_ENDED),
    },
    parameters=(
        SESSION_ID,
        parameter("If-Match", "header", TAG, "The session's `ETag`, or its version in quotes"),
    ),
    problems=(404, 408, 412, 413),
    body=(CancelBody, {"reason": "asked twice"}, False),
    scope=Scope.SESSIONS_CANCEL,
)  # fmt: skip
JOB_ID = parameter("jobId", "path", UUID, "As the POST answered it")
ITEMS_PAGE = (PAGE[1], parameter("cursor", "query", UUID, "The nextCursor of the page before"))
START_JOB = call(
    "Cancel or retry many sessions",
    "For admins. Looks at the sessions that a filter finds, of everyone and from before the job, or at up to 1,000 by "
    "`ids`, the oldest first, and skips those with which there is nothing to do. A retry sends also what was retried "
    "before: let the filter begin with the fault (`startedAt`), or give as `ids` the `newSessionId`s of the first job. "
    "Outlives a gateway.",
    {202: ("It goes on; look at `Location`", "Job", examples.JOB)},
    parameters=(KEY,),
    problems=(408, 409, 413, 422),
    body=(BulkBody, {"action": "retry", "filter": "status:FAILED failure:timeout persona:support"}, True),
    scope=Scope.SESSIONS_BULK,
)
GET_JOB = call(
    "Look at a bulk job",
    "For admins.",
    {200: ("The job", "Job", examples.JOB)},
    parameters=(JOB_ID,),
    problems=(404,),
    scope=Scope.SESSIONS_BULK,
)
GET_JOB_ITEMS = call(
    "Get what became of each session of a bulk job",
    "For admins. In the order of the sessions, as far as the job is.",
    {200: ("One page", "JobItems", {"items": [examples.JOB_ITEM], "nextCursor": None})},
    parameters=(JOB_ID, *ITEMS_PAGE),
    problems=(404,),
    scope=Scope.SESSIONS_BULK,
)
CANCEL_JOB = call(
    "Cancel a bulk job",
    "For admins. What it has done stays done. A job that has ended stays as it is.",
    {200: ("The job", "Job", {**examples.JOB, "state": "cancelled"})},
    parameters=(JOB_ID,),
    problems=(404,),
    scope=Scope.SESSIONS_BULK,
)
GET_STATISTICS = call(
    "Get statistics",
    "Of the sessions that started within the range: one's own, for an admin everyone's or those of one user. Exact for "
    "any range; percentiles are within 2 %. Of `q` they take `persona`, `user` and `startedAt`, each once.",
    {200: ("The statistics", "Statistics", examples.STATISTICS)},
    parameters=(
        Q,
        OF_PERSONA,
        parameter("userId", "query", NAME, "Sessions of this user (others than oneself: admins)"),
        FROM,
        TO,
        parameter(
            "interval",
            "query",
            {"enum": ["minute", "hour", "day", "week"]},
            "Adds a series by UTC minutes, hours, days or weeks (from Monday on), at most 1,000; needs from",
        ),
        parameter(
            "groupBy",
            "query",
            {"enum": ["persona", "status", "failureKind"]},
            "Adds groups: the statistics of each persona, or the number of sessions of each status or kind of failure",
        ),
    ),
    scope=Scope.STATS_READ,
)
POST_CALLBACK = call(
    "Reply by callback",
    "For the workflow of a persona with `callbackSeconds`: the whole address is the `callbackUrl` in the body of its "
    "webhook call, and needs no other credentials. The reply is read as a webhook's answer is; an object with an "
    "`error` fails the session as `workflow-error`. The first post of a session counts, and its repeats change "
    "nothing. A session that ended meanwhile stays as it is: the post is then in its timeline, marked late. A body "
    "that is no reply is 400 and changes nothing.",
    {202: ("Kafka has the reply", "CallbackTaken", {"sessionId": examples.ID})},
    parameters=(parameter("token", "path", TEXT, "The last part of the callbackUrl"),),
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
