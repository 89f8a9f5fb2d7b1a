"""Personas that reply by callback: what one of their calls stands for, and what its answer amounts to. No I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from services.contracts.callbacks import Callback
from services.contracts.replies import Reply
from services.webhook_dispatcher.delivery import Failed, judge
from services.webhook_dispatcher.outcomes import Answer, NoAnswer
from services.webhook_dispatcher.tracking import Message


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call that the workflow acknowledged: its reply comes by callback."""

    status: int
    deadline_at: datetime
    """Until when the reply may be posted."""


def callback_of(message: Message, seconds: float, now: datetime, longest_hours: float) -> Callback:
    """Return the callback of the call that begins `now`.

    Its deadline is `seconds` away, and at most `longest_hours`: after that, a sweep may end the session.
    """
    sent = message.event
    return Callback(
        session_id=sent.session_id,
        conversation_id=sent.conversation_id,
        persona_id=sent.persona_id,
        user_id=sent.user_id,
        attempt=message.attempt,
        called_at=now,
        deadline_at=now + timedelta(seconds=min(seconds, longest_hours * 3600)),
    )


def judge_call(outcome: Answer | NoAnswer, callback: Callback | None) -> Reply | Accepted | Failed:
    """Return what a call brought. With a callback any success is an acknowledgement, whatever the answer says."""
    if callback is not None and isinstance(outcome, Answer) and 200 <= outcome.status < 300:
        return Accepted(outcome.status, callback.deadline_at)
    return judge(outcome)
