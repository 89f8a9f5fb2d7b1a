"""Timing out sessions by hand, through the same sweep as the scheduled one."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from services.api_gateway.answers import answer
from services.api_gateway.auth import Caller
from services.api_gateway.bodies import CleanupBody
from services.api_gateway.database import Database
from services.api_gateway.documentation.administration import CLEAN_UP, GET_CLEANUP
from services.api_gateway.gate import Gate
from services.api_gateway.idempotency import IdempotencyKeys, Ticket, keyed_request
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.parameters import Query, id_in_path, parse_body, read_body
from services.api_gateway.problems import Problem
from services.api_gateway.publishing import Publisher
from services.api_gateway.scopes import Scope
from services.api_gateway.traces import traceparent_of
from services.api_gateway.waits import until_told
from services.contracts import TimeoutSweep, admit, new_id
from services.contracts.topics import SWEEPS
from services.database.audit_words import Action, Outcome, names_of
from services.database.tables import audit_log, sweeps
from services.runtime.kafka import NotAcknowledged

SWEEP_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 0.25
PATH = "/api/chat-sessions/cleanup"


@dataclass(frozen=True, slots=True)
class CleanupRoutes:
    """For admins."""

    gate: Gate
    database: Database
    keys: IdempotencyKeys
    publisher: Publisher
    changes: SessionChanges

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route(PATH, self.clean_up, methods=["POST"], **CLEAN_UP)
        router.add_api_route(PATH + "/{sweepId}", self.look_up, methods=["GET"], **GET_CLEANUP)
        return router

    async def clean_up(self, request: Request) -> Response:
        """Ask for a sweep, and answer with what it did if it ends within a few seconds."""
        caller = await self.gate.admin(request, Scope.SESSIONS_CLEANUP, Action.CLEANUP_START, "chat-sessions")
        self.gate.require_sessions()
        Query(request)
        raw = await read_body(request)
        event = _sweep(caller, parse_body(CleanupBody, raw, optional=True), datetime.now(UTC))
        keyed = keyed_request(request, caller.user_id, raw)
        is_due = True
        if keyed is not None:
            ticket = await self.keys.ticket(keyed, Ticket(event.sweep_id, event.event_id, event.occurred_at))
            ids = {"sweep_id": ticket.event_id, "event_id": ticket.event_id}
            times = {"as_of": ticket.created_at, "occurred_at": ticket.created_at}
            event, is_due = event.model_copy(update=ids | times), not ticket.published
        if is_due:
            await self._ask(event, caller, traceparent_of(request.scope))
            if keyed is not None:
                self.keys.published(keyed, datetime.now(UTC))
        done = await until_told(
            lambda: self._finished(event.sweep_id),
            asyncio.sleep,
            lambda: self.changes.stopping,
            seconds=SWEEP_SECONDS,
            look_again_seconds=LOOK_AGAIN_SECONDS,
        )
        if done is not None:
            return answer(done)
        asked = {"sweepId": event.sweep_id, "asOf": event.as_of, "dryRun": event.dry_run}
        return answer(asked, 202, {"location": f"{PATH}/{event.sweep_id}", "retry-after": "2"})

    async def _ask(self, event: TimeoutSweep, caller: Caller, traceparent: str) -> None:
        async with self.database.statements() as connection:
            asked: dict[str, Any] = {"maxAgeHours": event.max_age_hours, "dryRun": event.dry_run}
            target = str(event.sweep_id)
            await self.gate.audit.record(
                connection, caller, Action.CLEANUP_START, target, outcome=Outcome.ASKED, details=asked
            )
        try:
            await self.publisher.publish(event, parent=traceparent)
        except NotAcknowledged as error:
            detail = f"{error} Whether the sweep will run is unknown; ask for another, which does no harm."
            raise Problem(503, "not-acknowledged", detail, members={"sweepId": event.sweep_id}) from error

    async def look_up(self, request: Request) -> Response:
        """Tell how far a sweep is."""
        await self.gate.admin(request, Scope.SESSIONS_CLEANUP, Action.CLEANUP_READ, "chat-sessions")
        self.gate.require_sessions()
        Query(request)
        sweep_id = id_in_path(request, "sweepId", _no_such_sweep)
        found = await self._sweep(sweep_id)
        if found is None:
            raise _not_begun() if await self._is_asked(sweep_id, datetime.now(UTC)) else _no_such_sweep()
        return answer(found)

    async def _is_asked(self, sweep_id: UUID, now: datetime) -> bool:
        """Tell whether an admin has asked for the sweep while Kafka still holds what he asked."""
        entry = audit_log.c
        recent = entry.action.in_(names_of(Action.CLEANUP_START)), entry.at >= now - SWEEPS.retention
        asked = select(entry.id).where(*recent, entry.target == str(sweep_id)).limit(1)
        async with self.database.statements() as connection:
            return await connection.scalar(asked) is not None

    async def _finished(self, sweep_id: UUID) -> dict[str, Any] | None:
        sweep = await self._sweep(sweep_id)
        return sweep if sweep is not None and sweep["finishedAt"] is not None else None

    async def _sweep(self, sweep_id: UUID) -> dict[str, Any] | None:
        async with self.database.statements() as connection:
            row = (await connection.execute(select(*sweeps.c).where(sweeps.c.sweep_id == sweep_id))).one_or_none()
        return None if row is None else row._asdict()


def _no_such_sweep() -> Problem:
    return Problem(404, "no-such-sweep", "There is no sweep with this id.")


def _not_begun() -> Problem:
    detail = "The sweep was asked for and has not begun: the tracker first folds all that came before it. Try again."
    return Problem(503, "not-yet-begun", detail, headers={"retry-after": "2"})


def _sweep(caller: Caller, body: CleanupBody, now: datetime) -> TimeoutSweep:
    sweep_id = new_id()
    event = TimeoutSweep(
        event_id=sweep_id,
        occurred_at=now,
        sweep_id=sweep_id,
        as_of=now,
        requested_by=caller.user_id,
        max_age_hours=body.max_age_hours,
        dry_run=body.dry_run,
    )
    admit(event, now)
    return event
