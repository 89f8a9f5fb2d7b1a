"""Setting up personas."""

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer, page_answer
from services.api_gateway.database import Database
from services.api_gateway.documentation.administration import (
    DELETE_PERSONA,
    GET_PERSONA,
    LIST_PERSONAS,
    PAUSE_PERSONA,
    PUT_PERSONA,
    RESUME_PERSONA,
)
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query, identifier, parse_body, read_body
from services.api_gateway.persona_bodies import PersonaBody
from services.api_gateway.personas import Personas, delete_persona, read_persona, read_personas, set_paused, shown
from services.api_gateway.problems import no_such_persona
from services.api_gateway.scopes import Scope
from services.database.audit_words import Action


@dataclass(frozen=True, slots=True)
class PersonaRoutes:
    """For admins. Every change stands in the audit log, in the same transaction."""

    gate: Gate
    database: Database
    personas: Personas

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        path = "/api/personas/{personaId}"
        router.add_api_route("/api/personas", self.list, methods=["GET"], **LIST_PERSONAS)
        router.add_api_route(path, self.put, methods=["PUT"], **PUT_PERSONA)
        router.add_api_route(path, self.get, methods=["GET"], **GET_PERSONA)
        router.add_api_route(path, self.delete, methods=["DELETE"], **DELETE_PERSONA)
        router.add_api_route(f"{path}/pause", self.pause, methods=["POST"], **PAUSE_PERSONA)
        router.add_api_route(f"{path}/resume", self.resume, methods=["POST"], **RESUME_PERSONA)
        return router

    async def list(self, request: Request) -> Response:
        """List personas by id."""
        await self.gate.admin(request, Scope.PERSONAS_READ, Action.PERSONA_LIST, "personas")
        query = Query(request, "limit", "cursor")
        limit = query.limit()
        async with self.database.statements() as connection:
            rows = await read_personas(connection, query.identifier("cursor"), limit + 1)
        return page_answer([shown(row) for row in rows], limit, "personaId")

    async def put(self, request: Request) -> Response:
        """Make or replace a persona, its address checked."""
        persona_id = _persona_id(request)
        caller = await self.gate.admin(request, Scope.PERSONAS_WRITE, Action.PERSONA_PUT, persona_id)
        Query(request)
        body = parse_body(PersonaBody, await read_body(request))
        warnings = await self.personas.check_addresses(body)
        async with self.database.transaction() as connection:
            row = await self.personas.put(connection, persona_id, body, datetime.now(UTC))
            host = urlsplit(body.webhook_url).hostname
            await self.gate.audit.record(connection, caller, Action.PERSONA_PUT, persona_id, details={"host": host})
        return answer({**shown(row), "warnings": warnings} if warnings else shown(row))

    async def get(self, request: Request) -> Response:
        """Tell a persona, without its credentials."""
        persona_id = _persona_id(request)
        await self.gate.admin(request, Scope.PERSONAS_READ, Action.PERSONA_GET, persona_id)
        Query(request)
        async with self.database.statements() as connection:
            row = await read_persona(connection, persona_id)
        if row is None:
            raise no_such_persona(persona_id)
        return answer(shown(row))

    async def pause(self, request: Request) -> Response:
        """Hold a persona's messages back."""
        return await self._set_paused(request, Action.PERSONA_PAUSE, True)

    async def resume(self, request: Request) -> Response:
        """Let a persona's messages through again."""
        return await self._set_paused(request, Action.PERSONA_RESUME, False)

    async def _set_paused(self, request: Request, action: Action, paused: bool) -> Response:
        persona_id = _persona_id(request)
        caller = await self.gate.admin(request, Scope.PERSONAS_WRITE, action, persona_id)
        Query(request)
        async with self.database.transaction() as connection:
            row = await set_paused(connection, persona_id, paused, datetime.now(UTC))
            if row is None:
                raise no_such_persona(persona_id)
            await self.gate.audit.record(connection, caller, action, persona_id)
        return answer(shown(row))

    async def delete(self, request: Request) -> Response:
        """Delete a persona: messages to it fail from then on."""
        persona_id = _persona_id(request)
        caller = await self.gate.admin(request, Scope.PERSONAS_WRITE, Action.PERSONA_DELETE, persona_id)
        Query(request)
        async with self.database.transaction() as connection:
            if not await delete_persona(connection, persona_id):
                raise no_such_persona(persona_id)
            await self.gate.audit.record(connection, caller, Action.PERSONA_DELETE, persona_id)
        return Response(status_code=204)


def _persona_id(request: Request) -> str:
    return identifier("personaId", request.path_params["personaId"])
