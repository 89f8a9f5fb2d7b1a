"""`GET /api/chat-sessions/export`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from services.api_gateway.audit import EVERYONE
from services.api_gateway.database import Database
from services.api_gateway.documentation.sessions import EXPORT_SESSIONS
from services.api_gateway.downloads import Download, Downloads
from services.api_gateway.exports import Format, Writer, takes_gzip
from services.api_gateway.gate import Gate
from services.api_gateway.listing import Page, Sort, position_of, read_sort
from services.api_gateway.parameters import Query
from services.api_gateway.reads import SessionReads
from services.api_gateway.scopes import Scope
from services.api_gateway.selection import FILTER_NAMES, Selection, read_selection
from services.database.audit_words import Action

PAGE_SESSIONS = 1_000


@dataclass(frozen=True, slots=True)
class ExportRoutes:
    """Everything that a filter finds, as a file. No transaction is open while the client reads."""

    gate: Gate
    database: Database
    reads: SessionReads
    downloads: Downloads

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/api/chat-sessions/export", self.export, methods=["GET"], **EXPORT_SESSIONS)
        return router

    async def export(self, request: Request) -> Response:
        """Stream the caller's sessions; for an admin everyone's, unless he names a user."""
        caller = await self.gate.session_reader(request, Scope.SESSIONS_READ, Action.SESSION_EXPORT)
        query = Query(request, *FILTER_NAMES, "sort", "format")
        selection = await read_selection(self.gate, query, caller, Action.SESSION_EXPORT, all_by_default=True)
        sort = read_sort(query, selection.filter, datetime.now(UTC))
        form = query.word("format", Format) or Format.NDJSON
        if selection.user_id != caller.user_id:
            async with self.database.statements() as connection:
                target = self.gate.audit.target_of(selection.user_id or EVERYONE)
                await self.gate.audit.record(connection, caller, Action.SESSION_EXPORT, target)
        writer = Writer(form, compressed=takes_gzip(request.headers.get("accept-encoding", "")))
        with self.downloads.beginning() as end:
            # What goes wrong until here can still be told as a problem.
            first = await self.reads.following(selection, Page(PAGE_SESSIONS, sort=sort))
            return Download(self._parts(writer, selection, sort, first), end, writer.headers("chat-sessions"))

    async def _parts(
        self, writer: Writer, selection: Selection, sort: Sort, page: list[dict[str, Any]]
    ) -> AsyncIterator[bytes]:
        yield writer.beginning()
        while page:
            after = position_of(page[-1])
            # Beside the loop, which has other requests to answer.
            yield await asyncio.to_thread(writer.page, page)
            if len(page) < PAGE_SESSIONS:
                break
            page = await self.reads.following(selection, Page(PAGE_SESSIONS, sort=sort, after=after))
        yield writer.end()
