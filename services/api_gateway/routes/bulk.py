"""`/api/chat-sessions/bulk`: jobs that cancel or retry many sessions."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer, page_answer
from services.api_gateway.auth import Caller
from services.api_gateway.bodies import BulkBody
from services.api_gateway.bulk import JobState
from services.api_gateway.database import Database
from services.api_gateway.documentation.sessions import CANCEL_JOB, GET_JOB, GET_JOB_ITEMS, START_JOB
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.grammar import parse
from services.api_gateway.filters.meaning import understood, users_named
from services.api_gateway.gate import Gate
from services.api_gateway.idempotency import IdempotencyKeys, Ticket, keyed_request
from services.api_gateway.jobs import Jobs
from services.api_gateway.parameters import Query, id_in_path, parse_body, read_body
from services.api_gateway.problems import Problem, invalid_cursor
from services.api_gateway.scopes import Scope
from services.api_gateway.selection import invalid_filter
from services.contracts import new_id
from services.contracts.admission import MAX_TEXT_BYTES, admit_text
from services.database.audit_words import Action

PATH = "/api/chat-sessions/bulk"


@dataclass(frozen=True, slots=True)
class BulkRoutes:
    """For admins."""

    gate: Gate
    database: Database
    keys: IdempotencyKeys
    jobs: Jobs

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route(PATH, self.start, methods=["POST"], **START_JOB)
        router.add_api_route(PATH + "/{jobId}", self.get, methods=["GET"], **GET_JOB)
        router.add_api_route(PATH + "/{jobId}/items", self.items, methods=["GET"], **GET_JOB_ITEMS)
        router.add_api_route(PATH + "/{jobId}/cancel", self.cancel, methods=["PATCH"], **CANCEL_JOB)
        return router

    async def start(self, request: Request) -> Response:
        """Begin a job: it is counted and worked on afterwards."""
        caller = await self._admin(request, Action.BULK_START, "chat-sessions")
        Query(request)
        raw = await read_body(request)
        body, now, job_id = _checked(parse_body(BulkBody, raw)), datetime.now(UTC), new_id()
        keyed = keyed_request(request, caller.user_id, raw)
        if keyed is not None:
            ticket = await self.keys.ticket(keyed, Ticket(job_id, job_id, now))
            job_id, now = ticket.session_id, ticket.created_at
        if await self.jobs.add(job_id, caller.user_id, body, now):
            await self._record(caller, Action.BULK_START, job_id, self._details(body))
        if keyed is not None:
            self.keys.published(keyed, datetime.now(UTC))
        return answer(await self._told(job_id), 202, {"location": f"{PATH}/{job_id}", "retry-after": "1"})

    async def get(self, request: Request) -> Response:
        """Tell how far a job is."""
        await self._admin(request, Action.BULK_READ, "chat-sessions")
        Query(request)
        return answer(await self._told(_job_id(request)))

    async def items(self, request: Request) -> Response:
        """Tell what became of each session."""
        await self._admin(request, Action.BULK_READ, "chat-sessions")
        query = Query(request, "limit", "cursor")
        limit = query.limit()
        job_id = _job_id(request)
        await self._told(job_id)
        items = await self.jobs.items(job_id, _after(query.text("cursor", 64)), limit + 1)
        return page_answer(items, limit, "sessionId")

    async def cancel(self, request: Request) -> Response:
        """Let a job do no more; what it has done stays done."""
        caller = await self._admin(request, Action.BULK_CANCEL, "chat-sessions")
        Query(request)
        job_id = _job_id(request)
        await self._told(job_id)
        await self.jobs.end(job_id, JobState.CANCELLED)
        await self._record(caller, Action.BULK_CANCEL, job_id)
        return answer(await self._told(job_id))

    async def _admin(self, request: Request, action: Action, target: str) -> Caller:
        caller = await self.gate.admin(request, Scope.SESSIONS_BULK, action, target)
        self.gate.require_sessions()
        return caller

    async def _record(
        self, caller: Caller, action: Action, job_id: UUID, details: dict[str, Any] | None = None
    ) -> None:
        async with self.database.statements() as connection:
            await self.gate.audit.record(connection, caller, action, str(job_id), details=details)

    def _details(self, body: BulkBody) -> dict[str, Any]:
        """Return what the audit log keeps of a job: a filter that names users only as whom it names."""
        details = body.model_dump(mode="json", by_alias=True, exclude={"ids"})
        if body.filter is not None and (users := users_named(body.filter)):
            details |= {"filter": None, "users": sorted(map(self.gate.audit.target_of, users))}
        return details

    async def _told(self, job_id: UUID) -> dict[str, Any]:
        job = await self.jobs.told(job_id)
        if job is None:
            raise _no_such_job()
        return job


def _checked(body: BulkBody) -> BulkBody:
    """Return the body if a job can go by it; Problem 400 where its filter means nothing."""
    if body.reason is not None:
        admit_text("reason", body.reason, MAX_TEXT_BYTES)
    if body.filter is not None:
        try:
            understood(parse(body.filter))
        except InvalidFilter as error:
            raise invalid_filter(error) from error
    return body


def _job_id(request: Request) -> UUID:
    return id_in_path(request, "jobId", _no_such_job)


def _after(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise invalid_cursor() from None


def _no_such_job() -> Problem:
    return Problem(404, "no-such-job", "There is no job with this id; jobs are kept for 30 days.")
