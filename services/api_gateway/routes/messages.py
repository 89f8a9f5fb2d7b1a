"""`POST /api/conversations/{conversationId}/messages`: a user sends a message to a persona."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from services.api_gateway.auth import Caller
from services.api_gateway.bodies import MessageBody
from services.api_gateway.conversations import Conversations
from services.api_gateway.database import Database
from services.api_gateway.documentation.sessions import SEND_MESSAGE
from services.api_gateway.gate import Gate
from services.api_gateway.idempotency import asked_at, keyed_request
from services.api_gateway.parameters import Query, identifier, parse_body, read_body
from services.api_gateway.problems import Problem, no_such_template, no_such_version
from services.api_gateway.scopes import Scope
from services.api_gateway.sending import Sending, with_origin_of
from services.api_gateway.template_bodies import Template
from services.api_gateway.templates import usable_template
from services.api_gateway.waits import MAX_WAIT_SECONDS
from services.contracts import MessageSent, admit, new_id
from services.contracts.admission import admit_id
from services.database.audit_words import Action


@dataclass(frozen=True, slots=True)
class MessageRoutes:
    """Accepts messages."""

    gate: Gate
    database: Database
    conversations: Conversations
    sending: Sending

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        path = "/api/conversations/{conversationId:path}/messages"
        router.add_api_route(path, self.send, methods=["POST"], **SEND_MESSAGE)
        return router

    async def send(self, request: Request) -> Response:
        """Publish the message, and wait for its session's end if asked to."""
        caller = await self.gate.caller(request, Scope.MESSAGES_WRITE, Action.MESSAGE_SEND)
        wait = Query(request, "wait").seconds("wait", MAX_WAIT_SECONDS)
        conversation_id = identifier("conversationId", request.path_params["conversationId"])
        await self.sending.count(request, caller)
        raw = await read_body(request)
        body = parse_body(MessageBody, raw)
        template = await self._template(request, caller, body, raw)
        event = self._event(request, caller, conversation_id, body, template)
        await self.sending.count_persona(request, caller, event.persona_id)
        began = time.monotonic()
        if not await self.conversations.claim(conversation_id, caller.user_id):
            raise Problem(404, "no-such-conversation", "You have no conversation with this id; choose another id.")
        # Where PostgreSQL hangs, the claim has taken some of what the caller is willing to wait.
        left = max(0.0, wait - (time.monotonic() - began))
        return await self.sending.send(request, caller, event, raw, wait=left)

    async def _template(self, request: Request, caller: Caller, body: MessageBody, raw: bytes) -> Template | None:
        """Return the template that the body names, for the repeat of a key as it was; Problem 404 or 409."""
        if body.template_id is None:
            return None
        admit_id("templateId", body.template_id)
        keyed = keyed_request(request, caller.user_id, raw)
        async with self.database.statements() as connection:
            as_of = None if keyed is None else await asked_at(connection, keyed, datetime.now(UTC))
            template = await usable_template(connection, body.template_id, body.template_version, as_of)
            if template is None:
                if await usable_template(connection, body.template_id, None, as_of) is None:
                    raise no_such_template(body.template_id)
                raise no_such_version(body.template_id, body.template_version)
        if body.persona_id not in {None, template.persona_id}:
            detail = (
                f"This template is for the persona {template.persona_id!r}: leave out the personaId, or the template."
            )
            raise Problem(409, "other-persona", detail)
        return template

    def _event(
        self, request: Request, caller: Caller, conversation_id: str, body: MessageBody, template: Template | None
    ) -> MessageSent:
        now, persona_id, metadata = datetime.now(UTC), body.persona_id, body.metadata
        if template is not None:
            persona_id, metadata = template.persona_id, template.with_defaults(metadata)
        event = MessageSent(
            event_id=new_id(),
            occurred_at=now,
            session_id=new_id(),
            conversation_id=conversation_id,
            persona_id=persona_id or "",
            user_id=caller.user_id,
            message=body.message,
            metadata=with_origin_of(request, caller, metadata),
            template_id=body.template_id,
            template_version=None if template is None else template.version,
            call_policy=None if template is None else template.call_policy,
        )
        admit(event, now)
        return event
