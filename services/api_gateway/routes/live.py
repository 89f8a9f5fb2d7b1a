"""Server-Sent Events: `GET /api/chat-sessions/live` and `GET /api/chat-sessions/{sessionId}/live`."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from fastapi import APIRouter, Request, Response

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database, DatabaseAway
from services.api_gateway.documentation.live import LIVE_LIST, LIVE_SESSION
from services.api_gateway.gate import Gate
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.live.positions import (
    MAX_ID_CHARACTERS,
    SessionPosition,
    WrongPosition,
    read_list_id,
    read_session_id,
)
from services.api_gateway.live.response import EventStream, headers_only
from services.api_gateway.live.sessions import Json, SessionWatch
from services.api_gateway.live.stream import End, reconnect
from services.api_gateway.parameters import Query, session_id_of
from services.api_gateway.problems import Problem, invalid_parameter
from services.api_gateway.progress import found_or_decided
from services.api_gateway.reads import SessionReads
from services.api_gateway.scopes import Scope
from services.api_gateway.selection import FILTER_NAMES, read_selection
from services.database.audit_words import Action

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LiveRoutes:
    """Streams of what becomes of the caller's sessions; of everyone's for an admin."""

    gate: Gate
    database: Database
    reads: SessionReads
    changes: SessionChanges

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/api/chat-sessions/live", self.of_list, methods=["GET"], **LIVE_LIST)
        router.add_api_route("/api/chat-sessions/{sessionId}/live", self.of_session, methods=["GET"], **LIVE_SESSION)
        return router

    async def of_list(self, request: Request) -> Response:
        """Stream the changes of the sessions that a filter finds."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_LIVE)
        selection = await read_selection(
            self.gate, Query(request, *FILTER_NAMES), caller, Action.SESSION_LIVE, all_by_default=False
        )
        known = _last_event_id(request, read_list_id)
        self._require_current()
        if request.method == "HEAD":
            return headers_only()
        lists = self.changes.lists
        matcher = await lists.matcher(selection)
        erased = None if known is None else await lists.read(known)
        with ExitStack() as held:
            stream = held.enter_context(self.changes.streams.opened(caller, lambda: lists.beat(selection)))
            held.enter_context(lists.watched(selection, matcher, stream, known, erased))
            return EventStream(stream, _come_back, held.pop_all())

    async def of_session(self, request: Request) -> Response:
        """Stream one session until it has ended; 204 to a client that has its end already, and so comes no more."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_LIVE)
        Query(request)
        known = _last_event_id(request, read_session_id) or SessionPosition()
        session_id = session_id_of(request)
        self._require_current()
        with ExitStack() as held:
            stream = held.enter_context(self.changes.streams.opened(caller))
            watch = held.enter_context(self.changes.sessions.watched(str(session_id), stream, known))
            session = await self._newest(session_id, caller, watch)
            if session["status"].ended:
                if session["version"] <= known.version:
                    return Response(status_code=204)
                stream.end(End.SESSION_ENDED)
            elif request.method == "HEAD":
                return headers_only()
            else:
                watch.begin(session, is_known=session["version"] <= known.version)
            return EventStream(stream, self._last_of(session_id, caller, watch), held.pop_all())

    async def _newest(self, session_id: UUID, caller: Caller, watch: SessionWatch) -> Json:
        """Return the session as it is: not older than what the watch has heard meanwhile."""
        session = await found_or_decided(
            lambda: self.reads.session(session_id, caller), session_id, self.database, self.changes
        )
        while session["version"] < watch.version:
            session = await self.reads.session(session_id, caller) or session
            await asyncio.sleep(0)
        return session

    def _last_of(self, session_id: UUID, caller: Caller, watch: SessionWatch) -> Callable[[End], Awaitable[bytes]]:
        async def last(why: End) -> bytes:
            if why is not End.SESSION_ENDED:
                return reconnect(why)
            try:
                session = await self.reads.ended(session_id, caller)
            except DatabaseAway:
                return reconnect(End.DATABASE_AWAY)
            return reconnect(End.FAILED) if session is None else watch.at_end(session)

        return last

    def _require_current(self) -> None:
        if not self.changes.is_current:
            raise Problem(
                503,
                "not-yet-live",
                "This gateway has not read yet what happens now, as after its start or without Kafka; try again.",
                headers={"retry-after": "1"},
            )


async def _come_back(why: End) -> bytes:
    return reconnect(why)


def _last_event_id(request: Request, read: Callable[[str], T]) -> T | None:
    text = request.headers.get("last-event-id")
    if text is None:
        return None
    try:
        return read(text[: MAX_ID_CHARACTERS + 1])
    except WrongPosition:
        message = "It must be the id of an event of such a stream, unchanged."
        raise invalid_parameter("Last-Event-ID", message) from None
