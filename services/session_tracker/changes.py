"""Tells the world about committed sessions: SessionChanged on `chat.sessions.v1`."""

from collections.abc import Iterable
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from services.contracts.codec import Record, encode
from services.contracts.events import SessionChanged
from services.contracts.ids import derived_id
from services.contracts.session import SessionStatus
from services.runtime.kafka import publish_all
from services.session_tracker.lifecycle import Session

SOURCE = "/chat-sessions/tracker"


async def publish_changes(producer: AIOKafkaProducer, changes: Iterable[tuple[Session, SessionStatus | None]]) -> None:
    """Publish each session as committed, with the status it had before; raise NotAcknowledged where Kafka does not."""
    now = datetime.now(UTC)
    await publish_all(producer, [_record(session, previous, now) for session, previous in changes])


def _record(session: Session, previous: SessionStatus | None, now: datetime) -> Record:
    event = SessionChanged(
        event_id=derived_id(session.session_id, session.version),
        occurred_at=now,
        session_id=session.session_id,
        conversation_id=session.conversation_id,
        persona_id=session.persona_id,
        user_id=session.user_id,
        version=session.version,
        status=session.status,
        previous_status=previous,
        started_at=session.started_at,
        ended_at=session.ended_at,
        last_activity_at=session.last_activity_at,
        metadata=session.metadata,
        error_message=session.error_message,
        failure_kind=session.failure_kind,
        attempts=session.attempts,
        response_ms=session.response_ms,
        resumed_from=session.resumed_from,
        template_id=session.template_id,
        deadline_at=session.deadline_at,
    )
    return encode(event, source=SOURCE)
