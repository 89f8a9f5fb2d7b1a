"""`POST /api/conversations/{conversationId}/messages`: a user sends a message to a persona."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer, session_location
from services.api_gateway.auth import Caller
from services.api_gateway.bodies import MessageBody
from services.api_gateway.conversations import Conversations
from services.api_gateway.database import DatabaseAway
from services.api_gateway.documentation import SEND_MESSAGE
from services.api_gateway.gate import Gate
from services.api_gateway.idempotency import IdempotencyKeys, KeyedRequest, keyed_request
from services.api_gateway.limiting import Limiter
from services.api_gateway.live import SessionChanges
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.origin import client_address, device_info, with_origin
from services.api_gateway.parameters import Query, identifier, parse_body, read_body
from services.api_gateway.problems import Problem
from services.api_gateway.publishing import Publisher
from services.api_gateway.reads import SessionReads
from services.api_gateway.scopes import Scope
from services.api_gateway.waits import MAX_WAIT_SECONDS, until_told
from services.contracts import MessageSent, SessionStatus, admit, new_id
from services.contracts.ids import id_time
from services.runtime.egress import Network
from services.runtime.kafka import NotAcknowledged
from services.runtime.tracing import continued

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MessageRoutes:
    """Accepts messages: once Kafka has acknowledged one, it is not lost."""

    gate: Gate
    publisher: Publisher
    conversations: Conversations
    keys: IdempotencyKeys
    changes: SessionChanges
    reads: SessionReads
    per_user: Limiter
    per_persona: Limiter
    proxies: Sequence[Network]
    metrics: GatewayMetrics

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
        await self.per_user.count(request, caller.user_id)
        raw = await read_body(request)
        event = self._event(request, caller, conversation_id, parse_body(MessageBody, raw))
        await self.per_persona.count(request, f"{caller.user_id}\0{event.persona_id}")
        if not await self.conversations.claim(conversation_id, caller.user_id):
            raise Problem(404, "no-such-conversation", "You have no conversation with this id.")
        keyed = keyed_request(request, caller.user_id, raw)
        is_due = True
        if keyed is not None:
            ticket = await self.keys.ticket(keyed, event.occurred_at)
            ids = {"session_id": ticket.session_id, "event_id": ticket.event_id, "occurred_at": ticket.created_at}
            event, is_due = event.model_copy(update=ids), not ticket.published
        with self.changes.waiter(event.session_id) as waiter:
            if is_due:
                await self._publish(event, keyed, request.headers.get("traceparent"))
            ended = None
            if wait:
                ended = await until_told(
                    lambda: self._ended(event, caller), waiter.nap, lambda: self.changes.stopping, seconds=wait
                )
        return _answer(event, ended)

    def _event(self, request: Request, caller: Caller, conversation_id: str, body: MessageBody) -> MessageSent:
        headers, now = request.headers, datetime.now(UTC)
        peer = None if request.client is None else request.client.host
        event = MessageSent(
            event_id=new_id(),
            occurred_at=now,
            session_id=new_id(),
            conversation_id=conversation_id,
            persona_id=body.persona_id,
            user_id=caller.user_id,
            message=body.message,
            metadata=with_origin(
                body.metadata,
                user_agent=headers.get("user-agent"),
                address=client_address(peer, headers.getlist("x-forwarded-for"), self.proxies),
                device=device_info(headers),
            ),
            template_id=body.template_id,
        )
        admit(event, now)
        return event

    async def _publish(self, event: MessageSent, keyed: KeyedRequest | None, traceparent: str | None) -> None:
        try:
            await self.publisher.publish(event, traceparent=continued(traceparent))
        except NotAcknowledged as error:
            raise Problem(
                503,
                "not-acknowledged",
                f"{error} The outcome is unknown: look at the session, or repeat the request with its Idempotency-Key.",
                headers={"retry-after": "5", "location": session_location(event.session_id)},
                members={"sessionId": event.session_id},
            ) from error
        self.metrics.messages.inc()
        if keyed is not None:
            try:
                await self.keys.published(keyed, datetime.now(UTC))
            except DatabaseAway as error:
                # A repeat then sends the identical event again, which changes nothing.
                logger.warning("A published message is not marked so: %s", error)

    async def _ended(self, event: MessageSent, caller: Caller) -> dict[str, Any] | None:
        try:
            return await self.reads.ended(event.session_id, caller)
        except DatabaseAway:
            # The message is accepted whatever becomes of the wait.
            return None


def _answer(event: MessageSent, ended: dict[str, Any] | None) -> Response:
    headers = {"location": session_location(event.session_id)}
    if ended is not None:
        return answer(ended, 200, headers)
    accepted = {
        "sessionId": event.session_id,
        "conversationId": event.conversation_id,
        "personaId": event.persona_id,
        "status": SessionStatus.ACTIVE,
        "startedAt": id_time(event.session_id),
    }
    return answer(accepted, 202, headers)
