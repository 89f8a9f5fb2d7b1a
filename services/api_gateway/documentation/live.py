"""What the OpenAPI document says of streams of events."""

from enum import StrEnum
from typing import Any

from fastapi import Response

from services.api_gateway import examples
from services.api_gateway.documentation.parts import FILTER, REF, SESSION_ID, TEXT, call, parameter
from services.api_gateway.live.lists import Reload
from services.api_gateway.live.positions import MAX_ID_CHARACTERS
from services.api_gateway.live.stream import End
from services.api_gateway.scopes import Scope

Json = dict[str, Any]

_EVENT_ID = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS, "pattern": "^[A-Za-z0-9_-]+$"}
_LAST_EVENT_ID = parameter("Last-Event-ID", "header", _EVENT_ID, "The `id` of the last event, to go on after it")
_COMMON = (
    "Server-Sent Events. Each has an `id`: a client that was cut off and gives it back as `Last-Event-ID` is told what "
    "it missed. `reconnect` is the last event where the client is to come back, with the `reason`: `slow` (it took "
    "less than there was to tell), `token-expired`, `gateway-stopping`, `long-enough` (after an hour), "
    "`database-away`, `failed`. A gateway has `GATEWAY_MAX_STREAMS` streams open (503 `too-many-streams`), and "
    "`GATEWAY_MAX_STREAMS_PER_USER` of one user (429)."
)

LIVE_LIST = call(
    "Watch sessions",
    f"{_COMMON} `session` is a session that has changed and that the filter finds; `left` one that has ended, and that "
    "it found only while it was ACTIVE; `position` tells nothing but its id. On `reload` the client must list its "
    "sessions anew: what it missed is `gone`, or `too-much`. Open the stream first and list then; of one session "
    "ignore a `version` that is not above the last.",
    {200: ("The changes, until the client goes", None, None)},
    parameters=(*FILTER, _LAST_EVENT_ID),
    scope=Scope.SESSIONS_READ,
)  # fmt: skip
LIVE_SESSION = call(
    "Watch a session",
    f"{_COMMON} `session` is the session, as it is at first and each time that it has changed; the last one has ended "
    "and has its `reply`. `delta` is a piece of the reply of a persona that streams: the pieces of an `attempt` follow "
    "one another by `index`, a higher attempt begins anew, and where an index is missing the whole comes at the end. "
    "To a client that has the end already it is 204.",
    {
        200: ("The session's changes, until it has ended", None, None),
        204: ("It has ended, as `Last-Event-ID` says; there is nothing to come back for", None, None),
    },
    parameters=(SESSION_ID, _LAST_EVENT_ID),
    problems=(404,),
    scope=Scope.SESSIONS_READ,
)


def _one_of(*events: Json) -> Json:
    """Return the schema of each event of a stream."""
    return {"oneOf": [*events, _event("reconnect", _because(*(set(End) - {End.GONE, End.SESSION_ENDED})))]}


def _event(name: str, data: Json) -> Json:
    told = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    fields = {"event": {"const": name}, "data": told, "id": TEXT, "retry": {"type": "integer", "minimum": 0}}
    return {"type": "object", "required": ["event", "data"], "properties": fields}


def _because(*reasons: StrEnum) -> Json:
    return {"type": "object", "required": ["reason"], "properties": {"reason": {"enum": sorted(reasons)}}}


def _model(name: str) -> Json:
    return {"$ref": REF.format(model=name)}


_OF_LIST = _one_of(
    _event("session", _model("Session")),
    _event("left", _model("LeftSession")),
    _event("position", {"type": "object", "maxProperties": 0}),
    _event("reload", _because(*Reload)),
)
_OF_SESSION = _one_of(
    _event("session", {"anyOf": [_model("Session"), _model("EndedSession")]}), _event("delta", _model("ReplyPiece"))
)
for _call, _schema, _example in (
    (LIVE_LIST, _OF_LIST, examples.LIVE_LIST),
    (LIVE_SESSION, _OF_SESSION, examples.LIVE_SESSION),
):
    _call["response_class"] = Response  # which promises no JSON
    # OpenAPI 3.2's word, which FastAPI uses for streams as well.
    _call["responses"][200]["content"] = {"text/event-stream": {"itemSchema": _schema, "example": _example}}
