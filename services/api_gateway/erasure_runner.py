"""Asks the tracker for erasures, beside the requests, from where this or another gateway stopped."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.api_gateway.database import DatabaseAway
from services.api_gateway.erasures import PAGE, Erasures
from services.api_gateway.idempotency import IdempotencyKeys
from services.api_gateway.jobs import Jobs
from services.api_gateway.publishing import Publisher
from services.contracts import CancelRequested, ErasureRequested
from services.contracts.ids import derived_id
from services.runtime.kafka import NotAcknowledged
from services.runtime.tracing import continued

logger = logging.getLogger(__name__)

TURN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ErasureRunner:
    """One gateway's work on erasures. What is done twice has the same events, and does no harm."""

    erasures: Erasures
    keys: IdempotencyKeys
    jobs: Jobs
    publisher: Publisher

    async def run(self) -> None:
        """Take a turn each second, until cancelled."""
        while True:
            try:
                await asyncio.gather(*(self._ask_or_release(each) for each in await self.erasures.claim()))
                await self.erasures.settle()
            except DatabaseAway as error:
                logger.warning("Erasures wait: %s", error)
            await asyncio.sleep(TURN_SECONDS)

    async def _ask_or_release(self, request: Any) -> None:
        try:
            await self._ask(request)
        except NotAcknowledged as error:
            logger.warning("The erasure %s waits: %s", request.erasureId, error)
            await self.erasures.release(request.erasureId)

    async def _ask(self, request: Any) -> None:
        """Forget what the gateway itself keeps of the user, then publish: cancels, and one event a conversation."""
        await self.keys.forget(request.userId, request.before)
        await self.jobs.forget(request.userId, request.before)
        await self._cancel_active(request)
        position = request.position
        while page := await self.erasures.conversations_after(request.userId, position):
            await self._publish([_of_conversation(request, each) for each in page])
            position = page[-1]
            await self.erasures.moved(request.erasureId, position, len(page))
        if position is None:
            # The tracker may have more than PostgreSQL says yet: it hears of the user in any case.
            await self._publish([_of_conversation(request, str(request.erasureId))])
        await self.erasures.all_asked(request.erasureId)

    async def _cancel_active(self, request: Any) -> None:
        """Cancel what has not ended, so that nothing of it is sent to a webhook any more."""
        after, full = UUID(int=0), True
        while full:
            sessions = await self.erasures.active_after(request.userId, request.before, after)
            await self._publish([_of_session(request, session) for session in sessions])
            full = len(sessions) == PAGE
            after = sessions[-1].sessionId if sessions else after

    async def _publish(self, events: Sequence[CancelRequested | ErasureRequested]) -> None:
        trace = continued(None)
        await asyncio.gather(*(self.publisher.publish(event, parent=trace) for event in events))


def _of_conversation(request: Any, conversation_id: str) -> ErasureRequested:
    return ErasureRequested(
        event_id=derived_id(request.erasureId, conversation_id),
        occurred_at=datetime.now(UTC),
        conversation_id=conversation_id,
        user_id=request.userId,
        requested_by=request.requestedBy,
        before=request.before,
    )


def _of_session(request: Any, session: Any) -> CancelRequested:
    return CancelRequested(
        event_id=derived_id(request.erasureId, session.sessionId),
        occurred_at=datetime.now(UTC),
        session_id=session.sessionId,
        conversation_id=session.conversationId,
        persona_id=session.personaId,
        user_id=request.userId,
        requested_by=request.requestedBy,
    )
