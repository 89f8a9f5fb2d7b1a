"""`GET /api/chat-sessions/stats`."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer
from services.api_gateway.audit import EVERYONE
from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.documentation.sessions import GET_STATISTICS
from services.api_gateway.filters.bounds import Bounds, Subject, subject
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.meaning import USER
from services.api_gateway.filters.tree import And
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query
from services.api_gateway.problems import invalid_parameter
from services.api_gateway.scopes import Scope
from services.api_gateway.selection import equal, invalid_filter, read_filter
from services.api_gateway.statistics import (
    MAX_POINTS,
    Span,
    Tally,
    count_groups,
    persona_groups,
    points,
    resolved,
    series,
    summary,
    total,
)
from services.api_gateway.statistics_reads import Place, Question, tallies
from services.contracts.session import SessionStatus
from services.database.audit_words import Action
from services.database.rollups import Granularity

GROUPS = ("persona", "status", "failureKind")


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
        caller = await self.gate.session_reader(request, Scope.STATS_READ, Action.STATS_READ)
        query = Query(request, "q", "personaId", "userId", "from", "to", "interval", "groupBy")
        asked = await self._subject(query, caller)
        now = datetime.now(UTC)
        interval = _interval(query)
        span = resolved(asked.bounds.since, asked.bounds.until, now)
        if interval is not None:
            span = _bounded(asked.bounds, Span(span.since, asked.bounds.until or now), interval)
        group_by = query.choice("groupBy", GROUPS)
        question = Question(asked.user, asked.persona, group_by == "persona", interval)
        counts = await tallies(self.database, question, span, now)
        whole = total(counts.values())
        body = summary(whole)
        if group_by is not None:
            body["groups"] = _groups(group_by, counts, whole)
        if interval is not None:
            body["series"] = series(_joined(counts, 1), span, interval)
        return answer(body)

    async def _subject(self, query: Query, caller: Caller) -> Subject:
        """Return what is counted; Problem 400 for a filter that nothing was counted by, 403 for others' sessions."""
        wanted = query.identifier("userId")
        await self.gate.require_own(caller, Action.STATS_READ, wanted)
        users = equal(USER, None if wanted == EVERYONE else wanted)
        try:
            asked = subject(And((*users, read_filter(query, caller))))
        except InvalidFilter as error:
            raise invalid_filter(error, "unsupported-filter") from error
        return asked if caller.is_admin else replace(asked, user=caller.user_id)


def _interval(query: Query) -> Granularity | None:
    word = query.choice("interval", tuple(Granularity))
    return None if word is None else Granularity(word)


def _bounded(bounds: Bounds, span: Span, interval: Granularity) -> Span:
    """Return the range of a series; Problem 400 where it has no beginning or would be too long."""
    if bounds.since is None:
        raise invalid_parameter("from", "A series needs a beginning; give from beside interval.")
    if points(span, interval) > MAX_POINTS:
        raise invalid_parameter("interval", f"That would be more than {MAX_POINTS} points; ask for fewer.")
    return span


def _groups(group_by: str, counts: Mapping[Place, Tally], whole: Tally) -> list[dict[str, Any]]:
    if group_by == "persona":
        return persona_groups(_joined(counts, 0))
    if group_by == "status":
        return count_groups(zip(SessionStatus, whole.by_status, strict=True))
    return count_groups(whole.failures.items())


def _joined(counts: Mapping[Place, Tally], part: int) -> dict[Any, Tally]:
    """Return the tallies by one part of their place: the persona (0) or the time (1)."""
    joined: defaultdict[Any, Tally] = defaultdict(Tally)
    for place, tally in counts.items():
        joined[place[part]].add(tally)
    return joined
