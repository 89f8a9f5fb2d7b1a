"""Publishes messages again whose sessions never ended: for brokers that lost what they had."""

from collections.abc import AsyncIterator
from uuid import UUID

from aiokafka import AIOKafkaProducer
from sqlalchemy import Row, Select, and_, exists, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.codec import encode
from services.contracts.events import MessageSent
from services.contracts.session import MessageRole
from services.database import tables as t
from services.runtime.kafka import publish_all

SOURCE = "/chat-sessions/recovery"
PAGE = 500


async def recover(engine: AsyncEngine, producer: AIOKafkaProducer) -> int:
    """Publish the message of every ACTIVE session that no attempt has `accepted`; return how many.

    The events carry their original ids, so no second session comes of them; the dispatcher skips those that it has in
    flight or that have ended. Raises NotAcknowledged where Kafka does not take them.
    """
    published = 0
    async for events in _pages(engine):
        await publish_all(producer, [encode(event, source=SOURCE) for event in events])
        published += len(events)
    return published


async def _pages(engine: AsyncEngine) -> AsyncIterator[list[MessageSent]]:
    after = UUID(int=0)
    while True:
        async with engine.connect() as connection:
            rows = (await connection.execute(_open_messages(after))).all()
        if not rows:
            return
        yield [_event(row) for row in rows]
        after = rows[-1].session_id


def _open_messages(after: UUID) -> "Select[tuple[object, ...]]":
    message_of = and_(
        t.messages.c.chat_session_id == t.chat_sessions.c.session_id, t.messages.c.role == MessageRole.USER.value
    )
    sent, told = t.session_events.alias("sent"), t.session_events.alias("told")
    accepted = exists().where(
        told.c.session_id == t.chat_sessions.c.session_id,
        told.c.type == "WebhookAttempted",
        told.c.body["outcome"].astext == "accepted",
    )
    return (
        select(
            t.chat_sessions.c.session_id,
            t.chat_sessions.c.conversation_id,
            t.chat_sessions.c.persona_id,
            t.chat_sessions.c.user_id,
            t.chat_sessions.c.metadata.label("session_metadata"),
            t.chat_sessions.c.template_id,
            t.chat_sessions.c.resumed_from,
            t.messages.c.content,
            sent.c.event_id,
            sent.c.occurred_at,
        )
        .join(sent, and_(sent.c.session_id == t.chat_sessions.c.session_id, sent.c.type == "MessageSent"))
        .join(t.messages, message_of)
        .where(
            t.chat_sessions.c.status == literal_column("'ACTIVE'"),
            t.chat_sessions.c.session_id > after,
            t.messages.c.content.is_not(None),
            ~accepted,
        )
        .order_by(t.chat_sessions.c.session_id)
        .limit(PAGE)
    )


def _event(row: "Row[tuple[object, ...]]") -> MessageSent:
    return MessageSent(
        event_id=row.event_id,
        occurred_at=row.occurred_at,
        session_id=row.session_id,
        conversation_id=row.conversation_id,
        persona_id=row.persona_id,
        user_id=row.user_id,
        message=row.content,
        metadata=row.session_metadata,
        template_id=row.template_id,
        resumed_from=row.resumed_from,
    )
