"""`POST /api/chat-sessions/{sessionId}/retry`: the message of a session without a reply is sent again."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from services.api_gateway.bodies import RetryBody
from services.api_gateway.database import Database
from services.api_gateway.documentation.sessions import RETRY_SESSION
from services.api_gateway.gate import Gate
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.parameters import Query, parse_body, read_body, session_id_of
from services.api_gateway.progress import found_or_decided
from services.api_gateway.reads import SessionReads
from services.api_gateway.retries import retry_of
from services.api_gateway.scopes import Scope
from services.api_gateway.sending import Sending
from services.api_gateway.waits import MAX_WAIT_SECONDS
from services.database.audit_words import Action, Outcome


@dataclass(frozen=True, slots=True)
class RetryRoutes:
    """Retries of the caller's sessions; an admin's of everyone's, for their users."""

    gate: Gate
    database: Database
    reads: SessionReads
    changes: SessionChanges
    sending: Sending

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/api/chat-sessions/{sessionId}/retry", self.retry, methods=["POST"], **RETRY_SESSION)
        return router

    async def retry(self, request: Request) -> Response:
        """Send the session's message again, and wait for the new session's end if asked to."""
        caller = await self.gate.caller(request, Scope.MESSAGES_WRITE, Action.SESSION_RETRY)
        self.gate.require_sessions()
        wait = Query(request, "wait").seconds("wait", MAX_WAIT_SECONDS)
        session_id = session_id_of(request)
        await self.sending.count(request, caller)
        raw = await read_body(request)
        parse_body(RetryBody, raw, optional=True)
        session = await found_or_decided(
            lambda: self.reads.sent(session_id, caller), session_id, self.database, self.changes
        )
        event = retry_of(session, datetime.now(UTC))
        await self.sending.count_persona(request, caller, event.persona_id)
        if event.user_id != caller.user_id or caller.service is not None:
            async with self.database.statements() as connection:
                await self.gate.audit.record(
                    connection, caller, Action.SESSION_RETRY, str(session_id), outcome=Outcome.ASKED
                )
        return await self.sending.send(request, caller, event, raw, wait=wait)
