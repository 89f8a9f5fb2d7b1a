"""`POST /api/personas/{personaId}/test`: a real message, by the way of every other, to see what comes of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, UUID, uuid5

from fastapi import APIRouter, Request, Response

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.documentation.administration import TEST_PERSONA
from services.api_gateway.gate import Gate
from services.api_gateway.idempotency import keyed_request
from services.api_gateway.parameters import Query, identifier, parse_body, read_body
from services.api_gateway.persona_bodies import PersonaTestBody
from services.api_gateway.personas import read_persona
from services.api_gateway.problems import no_such_persona
from services.api_gateway.scopes import Scope
from services.api_gateway.sending import Sending, with_origin_of
from services.api_gateway.waits import MAX_WAIT_SECONDS
from services.contracts import MessageSent, admit, new_id
from services.database.audit_words import Action

WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PersonaTestRoutes:
    """For admins. The gateway itself calls no webhook: only the dispatcher does."""

    gate: Gate
    database: Database
    sending: Sending

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/api/personas/{personaId}/test", self.test, methods=["POST"], **TEST_PERSONA)
        return router

    async def test(self, request: Request) -> Response:
        """Send the persona a message, and wait for what becomes of it."""
        persona_id = identifier("personaId", request.path_params["personaId"])
        caller = await self.gate.admin(request, Scope.PERSONAS_WRITE, Action.PERSONA_TEST, persona_id)
        wait = Query(request, "wait").seconds("wait", MAX_WAIT_SECONDS, WAIT_SECONDS)
        await self.sending.count(request, caller)
        await self.sending.count_persona(request, caller, persona_id)
        raw = await read_body(request)
        event = self._event(request, caller, persona_id, raw)
        async with self.database.statements() as connection:
            if await read_persona(connection, persona_id) is None:
                raise no_such_persona(persona_id)
            await self.gate.audit.record(connection, caller, Action.PERSONA_TEST, persona_id)
        return await self.sending.send(request, caller, event, raw, wait=wait)

    def _event(self, request: Request, caller: Caller, persona_id: str, raw: bytes) -> MessageSent:
        body, now = parse_body(PersonaTestBody, raw, optional=True), datetime.now(UTC)
        event = MessageSent(
            event_id=new_id(),
            occurred_at=now,
            session_id=new_id(),
            conversation_id=f"persona-test-{_conversation(request, caller, raw)}",
            persona_id=persona_id,
            user_id=caller.user_id,
            message=body.message,
            metadata=with_origin_of(request, caller, {**body.metadata, "test": True}),
        )
        admit(event, now)
        return event


def _conversation(request: Request, caller: Caller, raw: bytes) -> UUID:
    """Return the conversation of a test: a new one, so that none waits for another, but one for repeats of a key."""
    keyed = keyed_request(request, caller.user_id, raw)
    return new_id() if keyed is None else uuid5(NAMESPACE_URL, "\0".join((*keyed.place, keyed.route)))
