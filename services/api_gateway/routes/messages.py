"""`POST /api/conversations/{conversationId}/messages`: a user sends a message to a persona."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from services.api_gateway.auth import Caller
from services.api_gateway.bodies import MessageBody
from services.api_gateway.conversations import Conversations
from services.api_gateway.documentation.sessions import SEND_MESSAGE
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query, identifier, parse_body, read_body
from services.api_gateway.problems import Problem
from services.api_gateway.scopes import Scope
from services.api_gateway.sending import Sending
from services.api_gateway.waits import MAX_WAIT_SECONDS
from services.contracts import MessageSent, admit, new_id


@dataclass(frozen=True, slots=True)
class MessageRoutes:
    """Accepts messages."""

    gate: Gate
    conversations: Conversations
    sending: Sending

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        path = "/api/conversations/{conversationId}/messages"
        router.add_api_route(path, self.send, methods=["POST"], **SEND_MESSAGE)
        return router

    async def send(self, request: Request) -> Response:
        """Publish the message, and wait for its session's end if asked to."""
        caller = await self.gate.caller(request, Scope.MESSAGES_WRITE)
        wait = Query(request, "wait").seconds("wait", MAX_WAIT_SECONDS)
        conversation_id = identifier("conversationId", request.path_params["conversationId"])
        await self.sending.count(request, caller)
        raw = await read_body(request)
        event = self._event(request, caller, conversation_id, parse_body(MessageBody, raw))
        await self.sending.count_persona(request, caller, event.persona_id)
        if not await self.conversations.claim(conversation_id, caller.user_id):
            raise Problem(404, "no-such-conversation", "You have no conversation with this id.")
        return await self.sending.send(request, caller, event, raw, wait=wait)

    def _event(self, request: Request, caller: Caller, conversation_id: str, body: MessageBody) -> MessageSent:
        now = datetime.now(UTC)
        event = MessageSent(
            event_id=new_id(),
            occurred_at=now,
            session_id=new_id(),
            conversation_id=conversation_id,
            persona_id=body.persona_id,
            user_id=caller.user_id,
            message=body.message,
            metadata=self.sending.with_origin(request, body.metadata),
            template_id=body.template_id,
        )
        admit(event, now)
        return event
