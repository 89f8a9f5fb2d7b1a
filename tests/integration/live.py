"""Streams of events as a client reads them, and what a tracker and a dispatcher publish, for the tests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from aiokafka import AIOKafkaProducer

from services.contracts import ReplyDelta, SessionChanged, SessionStatus, encode, new_id
from services.contracts.ids import id_time
from services.runtime.kafka import build_producer, publish
from services.runtime.settings import KafkaSettings
from tests.engine import on_apache_kafka
from tests.integration.gateway import ADA, Gateway, running_gateway
from tests.patience import PATIENT_SECONDS

LIVE = "/api/chat-sessions/live"
COLUMNS = {
    "metadata": {}, "error_message": None, "failure_kind": None, "attempts": 0, "response_ms": None,
    "resumed_from": None, "template_id": None, "deadline_at": None, "ended_at": None,
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    id: str
    retry: int | None = None

    @property
    def session(self) -> str:
        return str(self.data["sessionId"])


@dataclass
class Listener:
    """What one client hears. Reads as the standard says, and fails where nothing comes for a minute."""

    answer: httpx.Response
    last_id: str = ""
    comments: int = 0
    _lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.answer.aiter_lines()

    async def next(self) -> Event | None:
        """The next event, None at the end of the stream."""
        name, data, retry = "message", None, None
        while True:
            try:
                async with asyncio.timeout(PATIENT_SECONDS):
                    line = await anext(self._lines)
            except StopAsyncIteration:
                return None
            if not line:
                if data is not None:
                    return Event(name, json.loads(data), self.last_id, retry)
                continue
            kind, _, value = line.partition(":")
            match kind, value.removeprefix(" "):
                case "", _:
                    self.comments += 1
                case "event", name:
                    pass
                case "data", data:
                    pass
                case "id", id_:
                    self.last_id = id_
                case "retry", milliseconds:
                    retry = int(milliseconds)

    async def expect_comment(self) -> None:
        """Return once the stream has said that it is alive; events before that are passed over unread."""
        async with asyncio.timeout(PATIENT_SECONDS):
            while not self.comments:
                if (await anext(self._lines)).startswith(":"):
                    self.comments += 1

    async def expect(self, name: str) -> Event:
        event = await self.next()
        assert event is not None, f"The stream ended before a {name}."
        assert event.name == name, event
        return event

    async def expect_end(self) -> None:
        assert await self.next() is None

    async def sessions(self, count: int) -> list[str]:
        return [(await self.expect("session")).session for _ in range(count)]


@contextlib.asynccontextmanager
async def listening(
    gateway: Gateway, path: str = LIVE, headers: dict[str, str] = ADA, known: str | None = None, **query: str
) -> AsyncIterator[Listener]:
    """Lend what a client hears at `path`, which must be a stream."""
    sent = headers if known is None else {**headers, "last-event-id": known}
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENT_SECONDS, trust_env=False) as http,
        http.stream("GET", path, headers=sent, params=query) as answer,
    ):
        if answer.status_code != 200:
            await answer.aread()
            raise AssertionError(answer.text)
        assert answer.headers["content-type"] == "text/event-stream"
        yield Listener(answer)


@contextlib.asynccontextmanager
async def listening_to_list(gateway: Gateway, **options: Any) -> AsyncIterator[Listener]:
    """As `listening`, after the event that every list begins with."""
    async with listening(gateway, **options) as listener:
        first = await listener.expect("position")
        assert first.retry is not None
        yield listener


@dataclass
class Tells:
    """Publishes as the tracker and the dispatcher do."""

    producer: AIOKafkaProducer

    async def change(
        self, session_id: UUID, status: SessionStatus = SessionStatus.ACTIVE, version: int = 1, **columns: Any
    ) -> str:
        now = datetime.now(UTC)
        event = SessionChanged.model_validate(
            {
                **COLUMNS, "conversation_id": "c-1", "persona_id": "echo", "user_id": "ada",
                "event_id": new_id(), "occurred_at": now, "session_id": session_id, "version": version,
                "status": status, "previous_status": SessionStatus.ACTIVE if version > 1 else None,
                "started_at": id_time(session_id), "last_activity_at": now, **columns,
            }
        )  # fmt: skip
        await publish(self.producer, encode(event, source="/tests"))
        return str(session_id)

    async def delta(self, session_id: UUID, index: int, text: str, attempt: int = 1, user: str = "ada") -> None:
        event = ReplyDelta(
            event_id=new_id(), occurred_at=datetime.now(UTC), session_id=session_id, conversation_id="c-1",
            persona_id="echo", user_id=user, attempt=attempt, index=index, text=text,
        )  # fmt: skip
        await publish(self.producer, encode(event, source="/tests"))


@contextlib.asynccontextmanager
async def telling(bootstrap: str) -> AsyncIterator[Tells]:
    producer = build_producer(KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_idempotence=on_apache_kafka()))
    await producer.start()
    try:
        yield Tells(producer)
    finally:
        await producer.stop()


async def until_current(gateway: Gateway) -> None:
    async with asyncio.timeout(PATIENT_SECONDS):
        while not gateway.changes.is_current:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def live_gateway(bootstrap: str, postgres_url: str, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that has read what happens now."""
    async with running_gateway(bootstrap, postgres_url, **settings) as gateway:
        await until_current(gateway)
        yield gateway
