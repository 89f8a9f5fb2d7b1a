"""What a retry sends: the message of a session that brought no reply, as a new session that names the old one."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from services.api_gateway.problems import Problem
from services.contracts import MessageSent, SessionStatus, admit, new_id
from services.contracts.policy import CallPolicy

RETRYABLE = frozenset({SessionStatus.FAILED, SessionStatus.TIMEOUT, SessionStatus.CANCELLED})

SENT = ("message", "callPolicy")
"""What reads of what was sent tell beside the session."""
_POLICY = TypeAdapter(CallPolicy | None)


def retry_of(session: Mapping[str, Any], now: datetime) -> MessageSent:
    """Return the message of a session, with what reads tell of what was sent, to be sent again for the same user.

    Raises Problem 409 for a session that has not ended or has its reply, and for one whose text is not there: erased,
    or not told to the tracker yet.
    """
    if session["status"] not in RETRYABLE:
        allowed = ", ".join(sorted(RETRYABLE))
        raise _not_retryable(session, "not-retryable", f"The session is {session['status']}; a retry is for {allowed}.")
    if session["message"] is None:
        detail = "The text of the session's message is not there, or not any more: send a new message."
        raise _not_retryable(session, "no-message", detail)
    event = MessageSent(
        event_id=new_id(),
        occurred_at=now,
        session_id=new_id(),
        conversation_id=session["conversationId"],
        persona_id=session["personaId"],
        user_id=session["userId"],
        message=session["message"],
        metadata=session["metadata"],
        template_id=session["templateId"],
        template_version=session["templateVersion"],
        call_policy=_POLICY.validate_python(session["callPolicy"]),
        resumed_from=session["sessionId"],
    )
    admit(event, now)
    return event


def _not_retryable(session: Mapping[str, Any], code: str, detail: str) -> Problem:
    told = {name: value for name, value in session.items() if name not in SENT}
    return Problem(409, code, detail, members={"session": told})
