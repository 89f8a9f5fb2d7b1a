"""What a cancel sends: who wants a session to end, and why."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from services.contracts import CancelRequested, admit


def cancel_of(
    session: Mapping[str, Any], event_id: UUID, now: datetime, *, requested_by: str, reason: str | None
) -> CancelRequested:
    """Return the cancel of a session as reads tell it. Raises NotAdmitted."""
    event = CancelRequested(
        event_id=event_id,
        occurred_at=now,
        session_id=session["sessionId"],
        conversation_id=session["conversationId"],
        persona_id=session["personaId"],
        user_id=session["userId"],
        requested_by=requested_by,
        reason=reason,
    )
    admit(event, now)
    return event
