"""`GET /api/chat-sessions/export`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api_gateway.audit import EVERYONE
from services.api_gateway.database import Database, DatabaseAway
from services.api_gateway.documentation.sessions import EXPORT_SESSIONS
from services.api_gateway.exports import Format, Writer, takes_gzip
from services.api_gateway.gate import Gate
from services.api_gateway.listing import Page, Sort, position_of, read_sort
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.parameters import Query
from services.api_gateway.problems import Problem
from services.api_gateway.reads import SessionReads
from services.api_gateway.selection import FILTER_NAMES, Selection, read_selection

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 4
"""Of one gateway: an export keeps it busy for as long as its client reads."""
PAGE_SESSIONS = 1_000


@dataclass(slots=True)
class ExportRoutes:
    """Everything that a filter finds, as a file. No transaction is open while the client reads."""

    gate: Gate
    database: Database
    reads: SessionReads
    metrics: GatewayMetrics
    running: int = 0

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/api/chat-sessions/export", self.export, methods=["GET"], **EXPORT_SESSIONS)
        return router

    async def export(self, request: Request) -> Response:
        """Stream the caller's sessions; for an admin everyone's, unless he names a user."""
        caller = await self.gate.session_reader(request)
        query = Query(request, *FILTER_NAMES, "sort", "format")
        selection = await read_selection(self.gate, query, caller, "session.export", all_by_default=True)
        sort = read_sort(query, selection.filter, datetime.now(UTC))
        form = Format(query.choice("format", tuple(Format)) or Format.NDJSON)
        if selection.user_id != caller.user_id:
            async with self.database.statements() as connection:
                target = self.gate.audit.target_of(selection.user_id or EVERYONE)
                await self.gate.audit.record(connection, caller, "session.export", target)
        writer = Writer(form, compressed=takes_gzip(request.headers.get("accept-encoding", "")))
        self._begin()
        try:
            # What goes wrong until here can still be told as a problem.
            first = await self.reads.following(selection, Page(PAGE_SESSIONS, sort=sort))
        except BaseException:
            self._end()
            raise
        return _Export(self._parts(writer, selection, sort, first), self._end, headers=_headers(form, writer))

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

    def _begin(self) -> None:
        if self.running >= MOST_AT_ONCE:
            raise Problem(
                503,
                "too-many-exports",
                f"{MOST_AT_ONCE} exports are under way here; try again when one has ended.",
                headers={"retry-after": "10"},
            )
        self.running += 1
        self.metrics.exports.inc()

    def _end(self) -> None:
        self.running -= 1
        self.metrics.exports.dec()


class _Export(StreamingResponse):
    """Ends with its client; is broken off, so that nobody takes it for the whole, where PostgreSQL goes away."""

    def __init__(self, parts: AsyncIterator[bytes], ended: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(parts, headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except DatabaseAway as error:
            logger.warning("An export was broken off: %s", error)
        finally:
            self._ended()


def _headers(form: Format, writer: Writer) -> dict[str, str]:
    headers = {
        "content-type": form.media_type,
        "content-disposition": f'attachment; filename="chat-sessions.{form}"',
        "vary": "accept-encoding",
    }
    return {**headers, "content-encoding": "gzip"} if writer.compressed else headers
