"""Tells the world about committed sessions: SessionChanged on `chat.sessions.v1`."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from services.contracts.codec import Record, encode
from services.contracts.events import SessionChanged
from services.contracts.ids import derived_id
from services.contracts.session import SessionStatus
from services.runtime.kafka import publish_batches
from services.runtime.placement import partition_of
from services.session_tracker.lifecycle import Session

SOURCE = "/chat-sessions/tracker"
SLICE = 50
"""Changes encoded between two looks at what else waits, such as PostgreSQL's answer to the next batch."""


async def publish_changes(producer: AIOKafkaProducer, changes: Iterable[tuple[Session, SessionStatus | None]]) -> None:
    """Publish each session as committed, with the status it had before; raise NotAcknowledged where Kafka does not."""
    now = datetime.now(UTC)
    records: dict[int, list[Record]] = defaultdict(list)
    for number, (session, previous) in enumerate(changes):
        records[partition_of(session.conversation_id)].append(_record(session, previous, now))
        if number % SLICE == 0:
            await asyncio.sleep(0)
    await publish_batches(producer, SessionChanged.topic.name, records)


def _record(session: Session, previous: SessionStatus | None, now: datetime) -> Record:
    event = SessionChanged.model_validate(
        {
            **session._asdict(),
            "event_id": derived_id(session.session_id, session.version),
            "occurred_at": now,
            "previous_status": previous,
        }
    )
    return encode(event, source=SOURCE)
