"""`GET /api/audit`: who did what, and who was refused."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer
from services.api_gateway.audit_reads import AuditFilters, read_audit
from services.api_gateway.database import Database
from services.api_gateway.documentation.administration import READ_AUDIT
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query
from services.api_gateway.places import read_place
from services.api_gateway.scopes import Scope
from services.database.audit_words import Action, Outcome


@dataclass(frozen=True, slots=True)
class AuditRoutes:
    """For admins."""

    gate: Gate
    database: Database

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/api/audit", self.list, methods=["GET"], **READ_AUDIT)
        return router

    async def list(self, request: Request) -> Response:
        """List entries, the newest first."""
        await self.gate.admin(request, Scope.AUDIT_READ, Action.AUDIT_READ, "audit")
        query = Query(request, "actor", "userId", "action", "outcome", "from", "to", "limit", "cursor")
        user_id = query.identifier("userId")
        limit = query.limit()
        cursor = query.text("cursor", 64)
        since, until = query.time_range()
        filters = AuditFilters(
            actor=query.identifier("actor"),
            user=None if user_id is None else self.gate.audit.name_of(user_id),
            action=query.word("action", Action),
            outcome=query.word("outcome", Outcome),
            since=since,
            until=until,
        )
        before = None if cursor is None else read_place(cursor)
        return answer(await read_audit(self.database, filters, before, limit))
