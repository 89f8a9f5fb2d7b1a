"""Reading and cancelling sessions."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer, session_location, unchanged
from services.api_gateway.auth import Caller
from services.api_gateway.bodies import CancelBody
from services.api_gateway.cancels import cancel_of
from services.api_gateway.database import Database
from services.api_gateway.documentation.sessions import (
    CANCEL_SESSION,
    GET_HISTORY,
    GET_SESSION,
    LIST_CONVERSATION,
    LIST_SESSIONS,
)
from services.api_gateway.filters.tree import And
from services.api_gateway.gate import Gate
from services.api_gateway.history import read_history_page
from services.api_gateway.listing import PAGE_NAMES, list_answer, read_page
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.parameters import Query, identifier, parse_body, read_body, session_id_of
from services.api_gateway.problems import Problem, no_such_session, not_acknowledged
from services.api_gateway.progress import found_or_decided
from services.api_gateway.publishing import Publisher
from services.api_gateway.reads import SessionReads
from services.api_gateway.scopes import Scope
from services.api_gateway.selection import FILTER_NAMES, Selection, equal, read_selection
from services.api_gateway.traces import traceparent_of
from services.api_gateway.versions import entity_tag, is_current, is_known
from services.api_gateway.waits import MAX_WAIT_SECONDS, until_told
from services.contracts import SessionStatus, new_id
from services.contracts.admission import MAX_TEXT_BYTES, admit_text
from services.database.audit_words import Action, Outcome
from services.runtime.kafka import NotAcknowledged

CANCEL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SessionRoutes:
    """Sessions of the caller; an admin sees everyone's."""

    gate: Gate
    database: Database
    reads: SessionReads
    changes: SessionChanges
    publisher: Publisher

    def router(self) -> APIRouter:
        """Return the routes. Those with a fixed last part must have been added before."""
        router = APIRouter()
        session = "/api/chat-sessions/{sessionId}"
        router.add_api_route("/api/chat-sessions", self.list, methods=["GET"], **LIST_SESSIONS)
        router.add_api_route(session, self.detail, methods=["GET"], **GET_SESSION)
        router.add_api_route(f"{session}/events", self.history, methods=["GET"], **GET_HISTORY)
        router.add_api_route(f"{session}/cancel", self.cancel, methods=["PATCH"], **CANCEL_SESSION)
        conversation = "/api/conversations/{conversationId:path}/chat-sessions"
        router.add_api_route(conversation, self.list_conversation, methods=["GET"], **LIST_CONVERSATION)
        return router

    async def list(self, request: Request) -> Response:
        """List the caller's sessions, or for an admin also others'."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_LIST)
        query = Query(request, *FILTER_NAMES, *PAGE_NAMES)
        selection = await read_selection(self.gate, query, caller, Action.SESSION_LIST, all_by_default=False)
        return await self._page(selection, query)

    async def list_conversation(self, request: Request) -> Response:
        """List the sessions of one conversation, the active ones unless others are asked for."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_LIST)
        query = Query(request, "status", *PAGE_NAMES)
        conversation = identifier("conversationId", request.path_params["conversationId"])
        statuses = query.choices("status", SessionStatus) or (SessionStatus.ACTIVE,)
        parts = [*equal("conversation", conversation), *equal("status", *statuses)]
        return await self._page(Selection(None if caller.is_admin else caller.user_id, And(tuple(parts))), query)

    async def _page(self, selection: Selection, query: Query) -> Response:
        page = read_page(query, selection, datetime.now(UTC))
        rows, counted = await self.reads.page(selection, page)
        return answer(list_answer(rows, counted, selection, page))

    async def detail(self, request: Request) -> Response:
        """Tell one session, at once or when it has ended."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_GET)
        wait = Query(request, "wait").seconds("wait", MAX_WAIT_SECONDS)
        session_id = session_id_of(request)
        detail = await found_or_decided(
            lambda: self.reads.detail(session_id, caller, datetime.now(UTC)), session_id, self.database, self.changes
        )
        if wait and detail["status"] is SessionStatus.ACTIVE:
            await self._until_ended(session_id, caller, wait)
            again = await self.reads.detail(session_id, caller, datetime.now(UTC))
            if again is None:
                raise no_such_session()
            detail = again
        tag = entity_tag(detail)
        if is_known(_field(request, "if-none-match"), tag):
            return unchanged({"etag": tag})
        return answer(detail, headers={"etag": tag})

    async def history(self, request: Request) -> Response:
        """Tell one page of a session's events."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_GET)
        page = read_history_page(Query(request, "limit", "cursor"))
        session_id = session_id_of(request)
        return answer(
            await found_or_decided(
                lambda: self.reads.history(session_id, caller, page), session_id, self.database, self.changes
            )
        )

    async def cancel(self, request: Request) -> Response:
        """Cancel a session, and answer with what really became of it."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_CANCEL, Action.SESSION_CANCEL)
        Query(request)
        session_id = session_id_of(request)
        body = parse_body(CancelBody, await read_body(request), optional=True)
        admit_text("reason", body.reason or "", MAX_TEXT_BYTES)
        session = await self._cancellable(session_id, caller)
        as_seen = is_current(_field(request, "if-match"), session["version"])
        if session["status"] is SessionStatus.CANCELLED:
            return answer(session)
        if not as_seen:
            raise _moved(session)
        if session["status"] is not SessionStatus.ACTIVE:
            return _outcome(session)
        with self.changes.waiter(session_id) as waiter:
            await self._request_cancel(session, caller, body.reason, traceparent_of(request.scope))
            ended = await until_told(
                lambda: self._ended(session_id, caller),
                waiter.nap,
                lambda: self.changes.stopping,
                seconds=CANCEL_SECONDS,
            )
        if ended is None:
            return answer(session, 202, {"location": session_location(session_id)})
        return _outcome(ended)

    async def _cancellable(self, session_id: UUID, caller: Caller) -> dict[str, Any]:
        try:
            return await found_or_decided(
                lambda: self.reads.session(session_id, caller), session_id, self.database, self.changes
            )
        except Problem as problem:
            # Of an admin it is a mistake in the id: everything is his to cancel.
            if problem.status == 404 and not caller.is_admin:
                await self.gate.audit.record_refusal(caller, Action.SESSION_CANCEL, str(session_id), problem.code)
            raise

    async def _request_cancel(
        self, session: dict[str, Any], caller: Caller, reason: str | None, traceparent: str
    ) -> None:
        now = datetime.now(UTC)
        event = cancel_of(session, new_id(), now, requested_by=caller.user_id, reason=reason)
        if session["userId"] != caller.user_id or caller.service is not None:
            async with self.database.statements() as connection:
                target = str(session["sessionId"])
                await self.gate.audit.record(connection, caller, Action.SESSION_CANCEL, target, outcome=Outcome.ASKED)
        try:
            await self.publisher.publish(event, parent=traceparent)
        except NotAcknowledged as error:
            what_now = "Whether the session will be cancelled is unknown; cancel it again, which does no harm."
            raise not_acknowledged(error, session["sessionId"], what_now) from error

    async def _until_ended(self, session_id: UUID, caller: Caller, seconds: float) -> None:
        with self.changes.waiter(session_id) as waiter:
            await until_told(
                lambda: self._ended(session_id, caller), waiter.nap, lambda: self.changes.stopping, seconds=seconds
            )

    async def _ended(self, session_id: UUID, caller: Caller) -> dict[str, Any] | None:
        session = await self.reads.session(session_id, caller)
        return session if session is not None and session["status"] is not SessionStatus.ACTIVE else None


def _field(request: Request, name: str) -> str | None:
    """Return a header that is a list, as one, None where there is none."""
    values = request.headers.getlist(name)
    return ", ".join(values) if values else None


def _moved(session: dict[str, Any]) -> Problem:
    return Problem(
        412,
        "session-changed",
        f"The session is at version {session['version']}, not at the one of If-Match; nothing was cancelled.",
        members={"session": session},
    )


def _outcome(session: dict[str, Any]) -> Response:
    if session["status"] is SessionStatus.CANCELLED:
        return answer(session)
    raise Problem(
        409,
        "already-ended",
        f"The session had already ended as {session['status']}; nothing was cancelled.",
        members={"session": session},
    )
