"""What the OpenAPI document says of the calls for admins."""

from services.api_gateway import examples
from services.api_gateway.bodies import CleanupBody
from services.api_gateway.documentation.parts import (
    KEY,
    NAME,
    PAGE,
    PERSONA_ID,
    SENDING,
    TIME,
    TIMED_CURSOR,
    UUID,
    WAIT,
    call,
    parameter,
)
from services.api_gateway.persona_bodies import PersonaBody, PersonaTestBody
from services.api_gateway.scopes import Scope
from services.database.audit_words import WHAT_ACTIONS_DO, Action, Outcome

CLEAN_UP = call(
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
    parameters=(KEY,),
    problems=(408, 409, 413, 422),
    body=(CleanupBody, {"maxAgeHours": 24}, False),
    scope=Scope.SESSIONS_CLEANUP,
)
GET_CLEANUP = call(
    "Look at a cleanup",
    "For admins. It has ended when `finishedAt` is set.",
    {200: ("The sweep", "Sweep", examples.SWEEP)},
    parameters=(parameter("sweepId", "path", UUID, "As the POST answered it"),),
    problems=(404,),
    scope=Scope.SESSIONS_CLEANUP,
)
PUT_PERSONA = call(
    "Make or replace a persona",
    "For admins. The address is checked against the egress rules at once. Credentials are encrypted and never shown; "
    "a PUT without `auth` or `signingKeys` removes them.",
    {200: ("The persona", "Persona", examples.PERSONA)},
    parameters=(PERSONA_ID,),
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
GET_PERSONA = call(
    "Get a persona",
    "For admins.",
    {200: ("The persona", "Persona", examples.PERSONA)},
    parameters=(PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_READ,
)
DELETE_PERSONA = call(
    "Delete a persona",
    "For admins. Messages to it fail from then on.",
    {204: ("Deleted", None, None)},
    parameters=(PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_WRITE,
)
LIST_PERSONAS = call(
    "List personas",
    "For admins, by id.",
    {200: ("One page", "PersonaList", {"items": [examples.PERSONA], "nextCursor": None})},
    parameters=(PAGE[1], parameter("cursor", "query", NAME, "The nextCursor of the page before")),
    scope=Scope.PERSONAS_READ,
)
READ_AUDIT = call(
    "Read the audit log",
    "For admins, the newest entries first: administrative and destructive acts, done and refused, and webhook calls "
    "that failed for good. End users stand in it by a keyed hash: ask for one by `userId`. Actions: "
    + "; ".join(f"`{action}`: {about}" for action, about in WHAT_ACTIONS_DO.items())
    + ". Of what was refused `details.why` says why: `admin-only`, `insufficient-scope` or `no-such-session`. Entries "
    "are never changed: those of former releases keep the names that their actions had then, a scope's name where it "
    "was refused by scope, and are found by the actions that they may have been.",
    {200: ("One page", "AuditList", {"items": [examples.AUDIT_ENTRY], "nextCursor": None})},
    parameters=(
        parameter("actor", "query", NAME, "Entries of this admin, service or process, by name"),
        parameter(
            "userId", "query", NAME, "What this end user did, and what was done to them: the actor or the target"
        ),
        parameter("action", "query", {"enum": list(Action)}, "Entries of this action"),
        parameter("outcome", "query", {"enum": list(Outcome)}, "Entries of acts of which this became"),
        parameter("from", "query", TIME, "Written at this time or later; UTC without a zone"),
        parameter("to", "query", TIME, "Written before this time, which is not before `from`"),
        PAGE[1],
        parameter("cursor", "query", TIMED_CURSOR, "The nextCursor of the page before"),
    ),
    scope=Scope.AUDIT_READ,
)
PAUSE_PERSONA = call(
    "Pause a persona",
    "For admins. Within some seconds no further call of it begins; running ones go on. Its messages are accepted and "
    "wait, in order, each for as long as its session may last without activity; a PUT leaves the persona paused.",
    {200: ("The persona", "Persona", {**examples.PERSONA, "paused": True})},
    parameters=(PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_WRITE,
)
RESUME_PERSONA = call(
    "Resume a persona",
    "For admins. What waits is called, as many at a time as its webhook takes.",
    {200: ("The persona", "Persona", examples.PERSONA)},
    parameters=(PERSONA_ID,),
    problems=(404,),
    scope=Scope.PERSONAS_WRITE,
)
TEST_PERSONA = call(
    "Try a persona",
    "For admins. Sends a real message, in a conversation of its own, by the way of every other: a session of the "
    "admin's, with `test`: true in its metadata. It counts as a message to the limits and in statistics.",
    {
        200: ("The session has ended within `wait`", "EndedSession", {**examples.TESTED, "reply": "You said: hello"}),
        202: ("It goes on; look at `Location`", "Accepted", examples.ACCEPTED),
    },
    parameters=(
        PERSONA_ID,
        parameter("wait", "query", {**WAIT, "default": 30}, "Seconds to wait for the session's end"),
        *SENDING[1:],
    ),
    problems=(404, 408, 409, 413, 422),
    body=(PersonaTestBody, {"message": "hello"}, False),
    scope=Scope.PERSONAS_WRITE,
)
