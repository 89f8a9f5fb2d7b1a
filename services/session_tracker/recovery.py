"""Messages of sessions that never ended, to be published again where Kafka may have lost them."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from aiokafka import AIOKafkaProducer
from sqlalchemy import ColumnElement, Row, Select, and_, exists, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.codec import encode
from services.contracts.events import MessageSent
from services.database import tables as t
from services.runtime.kafka import publish_all

SOURCE = "/chat-sessions/recovery"
PAGE = 500

_COMMON = ("session_id", "conversation_id", "persona_id", "user_id")


async def recover(engine: AsyncEngine, producer: AIOKafkaProducer) -> int:
    """Publish the message of every ACTIVE session that no attempt has `accepted`; return how many.

    Raises NotAcknowledged where Kafka does not take them.
    """
    published = 0
    async for messages in open_messages(engine, _not_accepted()):
        published += await publish_again(producer, messages)
    return published


async def publish_again(producer: AIOKafkaProducer, messages: list[MessageSent]) -> int:
    """Publish the messages; return how many. Raises NotAcknowledged where Kafka does not take them.

    They carry their original ids, so no second session comes of them; the dispatcher skips those that it has in flight
    or that have ended.
    """
    await publish_all(producer, [encode(message, source=SOURCE) for message in messages])
    return len(messages)


async def open_messages(engine: AsyncEngine, which: ColumnElement[bool]) -> AsyncIterator[list[MessageSent]]:
    """Yield, page by page, the messages of those ACTIVE sessions. Erased ones have none."""
    after = UUID(int=0)
    while True:
        async with engine.connect() as connection:
            rows = (await connection.execute(_open_messages(after, which))).all()
        if not rows:
            return
        yield [_message(row) for row in rows]
        after = rows[-1].session_id


def untouched_since(moment: datetime) -> ColumnElement[bool]:
    """Return what holds of sessions to which nothing happened after `moment`, nor any attempt before it."""
    session = t.chat_sessions.c
    return and_(session.last_activity_at < moment, session.attempts == literal_column("0"))


def _not_accepted() -> ColumnElement[bool]:
    told = t.session_events.alias("told")
    return ~exists().where(
        told.c.session_id == t.chat_sessions.c.session_id,
        told.c.type == "WebhookAttempted",
        told.c.body["outcome"].astext == "accepted",
    )


def _open_messages(after: UUID, which: ColumnElement[bool]) -> "Select[tuple[object, ...]]":
    session, sent = t.chat_sessions.c, t.session_events.alias("sent")
    erased = exists().where(t.erasures.c.user_id == session.user_id, t.erasures.c.before > session.started_at)
    return (
        select(*(session[name] for name in _COMMON), sent.c.event_id, sent.c.occurred_at, sent.c.body)
        .join(sent, and_(sent.c.session_id == session.session_id, sent.c.type == "MessageSent"))
        .where(
            session.status == literal_column("'ACTIVE'"),
            session.session_id > after,
            sent.c.body["message"].astext.is_not(None),
            ~erased,  # its text may still be there for a moment
            which,
        )
        .order_by(session.session_id)
        .limit(PAGE)
    )


def _message(row: "Row[tuple[object, ...]]") -> MessageSent:
    common = {name: getattr(row, name) for name in (*_COMMON, "event_id", "occurred_at")}
    return MessageSent.model_validate({**row.body, **common}, strict=False)
