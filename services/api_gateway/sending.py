"""How a message gets to Kafka and back to its sender: limits, keys, the acknowledgement, the wait for its end."""

import asyncio
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import Request, Response

from services.api_gateway.answers import answer, session_location
from services.api_gateway.auth import Caller
from services.api_gateway.database import DatabaseAway
from services.api_gateway.idempotency import IdempotencyKeys, KeyedRequest, Ticket, keyed_request
from services.api_gateway.limiting import Limiter
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.origin import device_info, with_origin
from services.api_gateway.problems import not_acknowledged
from services.api_gateway.publishing import Publisher
from services.api_gateway.reads import SessionReads
from services.api_gateway.traces import traceparent_of
from services.api_gateway.waits import until_told
from services.contracts import MessageSent, SessionStatus
from services.contracts.events import Metadata
from services.contracts.ids import id_time
from services.runtime.kafka import NotAcknowledged
from services.runtime.logs import about

logger = logging.getLogger(__name__)

LAST_LOOK_SECONDS = 0.5
"""What the look at the end of a wait may take beyond it."""


@dataclass(frozen=True, slots=True)
class Sending:
    """Sends messages, whoever asks for them: once Kafka has acknowledged one, it is not lost."""

    publisher: Publisher
    keys: IdempotencyKeys
    changes: SessionChanges
    reads: SessionReads
    per_user: Limiter
    per_persona: Limiter
    metrics: GatewayMetrics

    async def count(self, request: Request, caller: Caller) -> None:
        """Count a message of the caller's; raise Problem 429 where it is one too many."""
        await self.per_user.count(request, caller.user_id)

    async def count_persona(self, request: Request, caller: Caller, persona_id: str) -> None:
        """Count a message of the caller's to this persona, as `count` does."""
        await self.per_persona.count(request, f"{caller.user_id}\0{persona_id}")

    async def send(self, request: Request, caller: Caller, event: MessageSent, body: bytes, *, wait: float) -> Response:
        """Publish an admitted event, once for each Idempotency-Key, and answer with its session.

        200 if that ends within `wait` seconds, else 202. Raises Problem 503 where Kafka does not acknowledge.
        """
        keyed, is_due = keyed_request(request, caller.user_id, body), True
        if keyed is not None:
            event, is_due = await self._first(keyed, event)
        ended = None
        with self.changes.waiter(event.session_id) if wait else nullcontext() as waiter:
            if is_due:
                await self._publish(event, keyed, traceparent_of(request.scope))
            if waiter is not None:
                until = asyncio.get_running_loop().time() + wait
                ended = await until_told(
                    lambda: self._ended(event, caller, until), waiter.nap, lambda: self.changes.stopping, seconds=wait
                )
        return _answer(event, ended)

    async def _first(self, keyed: KeyedRequest, event: MessageSent) -> tuple[MessageSent, bool]:
        """Return the event as it was when its key came first, and whether it is still to be published."""
        proposed = Ticket(event.session_id, event.event_id, event.occurred_at)
        ticket = await self.keys.ticket(keyed, proposed)
        if ticket is proposed:
            return event, True
        ids = {"session_id": ticket.session_id, "event_id": ticket.event_id, "occurred_at": ticket.created_at}
        return event.model_copy(update=ids), not ticket.published

    async def _publish(self, event: MessageSent, keyed: KeyedRequest | None, traceparent: str) -> None:
        try:
            await self.publisher.publish(event, parent=traceparent)
        except NotAcknowledged as error:
            what_now = "The outcome is unknown: look at the session, or repeat the request with its Idempotency-Key."
            raise not_acknowledged(error, event.session_id, what_now) from error
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("A message was accepted.", extra=about(event.session_id, traceparent))
        self.metrics.messages.inc()
        if keyed is not None:
            self.keys.published(keyed, datetime.now(UTC))

    async def _ended(self, event: MessageSent, caller: Caller, until: float) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout_at(max(until, asyncio.get_running_loop().time() + LAST_LOOK_SECONDS)):
                return await self.reads.ended(event.session_id, caller)
        except (DatabaseAway, TimeoutError):
            # The message is accepted whatever becomes of the wait.
            return None


def with_origin_of(request: Request, caller: Caller, metadata: Metadata) -> Metadata:
    """Return the metadata with where the request came from."""
    return with_origin(
        metadata,
        user_agent=request.headers.get("user-agent"),
        address=caller.address,
        device=device_info(request.scope["headers"]),
    )


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
