"""What the OpenAPI document says of users' data."""

from fastapi import Response

from services.api_gateway import examples
from services.api_gateway.documentation.parts import NAME, UUID, call, parameter
from services.api_gateway.scopes import Scope

USER_ID = parameter("userId", "path", NAME, "The `sub` of the user's tokens; what begins with `erased:` is no user")
EXPORT_USER = call(
    "Get everything about a user",
    "For admins. JSON lines, streamed, gzip by `Accept-Encoding`; `kind` says what a line is: `user` (the first), "
    "`conversation`, `session`, `message`, `event`, `day` (of statistics), `idempotencyKey`, `erasure`, `act` (the "
    "user's own in the audit log) and `end`, which counts them: without it the answer was broken off and is not "
    "the whole.",
    {200: ("What there is, one thing a line", None, None)},
    parameters=(USER_ID,),
    scope=Scope.USERS_READ,
)
EXPORT_USER["response_class"] = Response  # which promises no JSON
EXPORT_USER["responses"][200]["content"] = {
    "application/x-ndjson": {
        "schema": {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}},
        "example": examples.USER_DATA,
    }
}
ERASE_USER = call(
    "Erase a user's data",
    "For admins. Of all sessions that began before now: the texts of messages, metadata, error messages and the bodies "
    "of events are taken out, events that come later bring none back, and a keyed hash stands for the user. Statistics "
    "stay. What has not ended is cancelled. Goes on behind the answer; `Location` is the receipt. Sessions from now on "
    "are not touched.",
    {202: ("It is being done", "Erasure", {**examples.ERASURE, "state": "running", "finishedAt": None})},
    parameters=(USER_ID,),
    scope=Scope.USERS_ERASE,
)
GET_ERASURE = call(
    "Look at an erasure",
    "For admins: the receipt. It names the user by a keyed hash, and says until when Kafka still has what was "
    "published before, if its topics are as `chat-sessions migrate` made them.",
    {200: ("The receipt", "Erasure", examples.ERASURE)},
    parameters=(parameter("erasureId", "path", UUID, "As the DELETE answered it"),),
    problems=(404,),
    scope=Scope.USERS_ERASE,
)
