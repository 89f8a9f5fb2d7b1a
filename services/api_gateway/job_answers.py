"""The shapes of answers about work on many sessions, for the OpenAPI document."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from services.api_gateway.answer_models import Shape
from services.contracts.session import SessionStatus


class Job(Shape):
    """Work on many sessions."""

    job_id: UUID
    requested_by: str
    action: Literal["cancel", "retry"]
    filter: str | None
    reason: str | None
    dry_run: bool
    per_second: int
    state: Literal["running", "finished", "cancelled", "failed"]
    error: str | None = Field(description="Why it failed")
    done: int = Field(description="Cancels asked for, or messages sent again; of a dry run: that would have been")
    skipped: int = Field(description="Sessions for which there was nothing to do, or not any more")
    created_at: datetime
    finished_at: datetime | None


class JobItem(Shape):
    """What became of one session."""

    session_id: UUID
    outcome: Literal["due", "done", "skipped"] = Field(
        description="due: it is being done; of a dry run, done: it would have been"
    )
    code: str | None = Field(description="Why it was skipped")
    new_session_id: UUID | None = Field(description="Of a retry")
    status: SessionStatus | None = Field(description="As it is now: of the new session for a retry, else of this one")


class JobItems(Shape):
    """One page of what became of each session."""

    items: list[JobItem]
    next_cursor: str | None
