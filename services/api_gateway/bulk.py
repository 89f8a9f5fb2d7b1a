"""What a bulk job does with one session. Decides, and makes the event; publishes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.api_gateway.cancels import cancel_of
from services.api_gateway.problems import Problem
from services.api_gateway.retries import retry_of
from services.contracts import CancelRequested, MessageSent, SessionStatus, new_id
from services.contracts.ids import id_time

CANCEL, RETRY = "cancel", "retry"


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


class ItemOutcome(StrEnum):
    """What became of one session."""

    DUE = "due"
    """Its event has its ids, and Kafka may have it or not: it is published again until it is acknowledged."""
    DONE = "done"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Item:
    """One session of a job. The ids are kept before anything is published, so that a repeat is the same event."""

    session_id: UUID
    outcome: ItemOutcome
    code: str | None
    event_id: UUID
    new_session_id: UUID | None


def plan(action: str, session_id: UUID, session: Mapping[str, Any] | None, now: datetime, *, dry_run: bool) -> Item:
    """Return what is to be done with a session as it is now; None is one that is not there."""
    code = "no-such-session" if session is None else _obstacle(action, session, now)
    outcome = ItemOutcome.SKIPPED if code else ItemOutcome.DONE if dry_run else ItemOutcome.DUE
    is_new = action == RETRY and outcome is ItemOutcome.DUE
    return Item(session_id, outcome, code, new_id(), new_id() if is_new else None)


def event_of(job: Any, item: Item, session: Mapping[str, Any]) -> CancelRequested | MessageSent:
    """Return the event of an item that is due, the same each time; Problem 409 where there can be none any more."""
    now = id_time(item.event_id)
    if job.action == RETRY:
        again = {"session_id": item.new_session_id, "event_id": item.event_id}
        return retry_of(session, now).model_copy(update=again)
    return cancel_of(session, item.event_id, now, requested_by=job.requestedBy, reason=job.reason)


def _obstacle(action: str, session: Mapping[str, Any], now: datetime) -> str | None:
    if action == CANCEL:
        return None if session["status"] is SessionStatus.ACTIVE else "already-ended"
    try:
        retry_of(session, now)
    except Problem as problem:
        return problem.code
    return None
