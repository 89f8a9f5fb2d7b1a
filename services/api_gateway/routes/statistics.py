"""`GET /api/chat-sessions/stats`."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer
from services.api_gateway.database import Database
from services.api_gateway.documentation import GET_STATISTICS
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query
from services.api_gateway.problems import invalid_parameter
from services.api_gateway.statistics import HOUR, MAX_POINTS, Span, Tally, points, series, summary, total
from services.api_gateway.statistics_reads import Subject, tallies_by_hour

_INTERVALS = {"hour": HOUR, "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class StatisticsRoutes:
    """A user's own statistics; for an admin everyone's, or those of the user he names."""

    gate: Gate
    database: Database

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/api/chat-sessions/stats", self.statistics, methods=["GET"], **GET_STATISTICS)
        return router

    async def statistics(self, request: Request) -> Response:
        """Count the sessions that started within the range."""
        caller = await self.gate.session_reader(request)
        query = Query(request, "personaId", "userId", "from", "to", "interval")
        user_id = query.identifier("userId") or (None if caller.is_admin else caller.user_id)
        if user_id not in {None, caller.user_id}:
            await self.gate.require_admin(caller, "stats.read", str(user_id))
        span = Span(query.time("from"), query.time("to"))
        interval = _INTERVALS.get(query.choice("interval", tuple(_INTERVALS)) or "")
        bounds = None if interval is None else _bounds(span, interval)
        counted = bounds or span
        hours = await tallies_by_hour(self.database, Subject(user_id, query.identifier("personaId")), counted)
        return answer({**summary(total(hours.values())), **_series(hours, bounds, interval)})


def _bounds(span: Span, interval: timedelta) -> Span:
    """Return the range of a series, which ends at some time; Problem 400 where it would be too long."""
    if span.since is None:
        raise invalid_parameter("from", "A series needs a beginning; give from beside interval.")
    until = span.until or datetime.now(UTC)
    if points(span.since, until, interval) > MAX_POINTS:
        raise invalid_parameter("interval", f"That would be more than {MAX_POINTS} points; ask for fewer.")
    return Span(span.since, until)


def _series(hours: dict[datetime, Tally], bounds: Span | None, interval: timedelta | None) -> dict[str, Any]:
    if bounds is None or interval is None or bounds.since is None or bounds.until is None:
        return {}
    return {"series": series(hours, bounds.since, bounds.until, interval)}
