"""Sessions in PostgreSQL whose reply by callback is overdue."""

from datetime import datetime, timedelta

from services.contracts.events import WebhookFailed
from services.contracts.ids import derived_id
from services.contracts.session import FailureKind
from services.database.driver import Driver
from services.session_tracker import statements as sql
from services.session_tracker.endings import Chunk, Ending, Position, end_sessions
from services.session_tracker.lifecycle import Session
from services.session_tracker.rows import session_of
from services.session_tracker.store import SessionStore

_NEVER_CAME = (
    "The workflow accepted the message and did not post its reply to callbackUrl in time: look at its executions in "
    "n8n, or raise the persona's callbackSeconds."
)


class OverdueStore:
    """Every method raises PassingFault where PostgreSQL is not to be had."""

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions

    async def folded_up_to(self) -> datetime | None:
        """Return up to when everything is folded, None where that is not known of every partition."""
        return await self._sessions.folded_up_to()

    async def end(self, until: datetime, position: Position, size: int) -> Chunk:
        """Fail the next sessions, at most `size`, whose deadline is `until` or before, in one transaction.

        Sessions that the fold holds at this moment are left for the next pass. Raises RefusedByPostgres where
        PostgreSQL does not take the chunk.
        """
        async with self._sessions.transaction() as driver:
            overdue = await _lock_overdue(driver, until, position, size)
            return await end_sessions(driver, [_ending(session) for session in overdue], _after(overdue, size))

    async def skip(self, until: datetime, position: Position) -> Position | None:
        """Return where to go on behind the session after `position`, None at the end."""
        async with self._sessions.transaction() as driver:
            return _after(await _lock_overdue(driver, until, position, 1), 1)


async def _lock_overdue(driver: Driver, until: datetime, position: Position, size: int) -> list[Session]:
    rows = await driver.fetch(sql.LOCK_OVERDUE, until, position.due_since, position.session_id, size)
    return [session_of(row) for row in rows]


def _after(overdue: list[Session], size: int) -> Position | None:
    return Position(_deadline(overdue[-1]), overdue[-1].session_id) if len(overdue) == size else None


def _ending(session: Session) -> Ending:
    """The failure is dated by the deadline; its duration is how long the callback was waited for."""
    deadline_at = _deadline(session)
    event = WebhookFailed(
        event_id=derived_id(session.session_id, "callback-timeout"),
        occurred_at=deadline_at,
        session_id=session.session_id,
        conversation_id=session.conversation_id,
        persona_id=session.persona_id,
        user_id=session.user_id,
        attempt=max(1, session.attempts),
        duration_ms=max(timedelta(), deadline_at - session.last_activity_at) // timedelta(milliseconds=1),
        failure_kind=FailureKind.CALLBACK_TIMEOUT,
        error_message=_NEVER_CAME,
    )
    return Ending(session, event, event.event_id, deadline_at)


def _deadline(session: Session) -> datetime:
    if session.deadline_at is None:
        raise ValueError("A session without a deadline is never overdue.")
    return session.deadline_at
