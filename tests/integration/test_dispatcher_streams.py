"""Streamed replies: assembled for the session, told piece by piece to whoever watches."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from services.contracts import ReplyDelta, WebhookAttempted, WebhookSucceeded, decode
from services.contracts.replies import Reply
from services.contracts.topics import DELTAS, MESSAGES
from services.local.broker import start_broker
from services.local.processes import free_port
from services.local.reaper import Reaper
from services.runtime.kafka import build_courier
from services.webhook_dispatcher.course import Limit
from services.webhook_dispatcher.delivery import judge
from services.webhook_dispatcher.deltas import MOST_WAITING_BYTES, PIECE_BYTES, Deltas
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.outcomes import NoAnswer, Trouble
from tests.integration.calling import TRACEPARENT, call, chunk, hangs, head, resets, sends, talker
from tests.integration.dispatching import add_persona, dispatcher, ended, results_of
from tests.integration.kafka_log import eventually, read_all, settings_for
from tests.integration.tracker_process import publish_events, until
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker

BEGIN, END = b'{"type":"begin"}\n', b'{"type":"end"}\n'
HEAD = head(transfer_encoding="chunked", content_type="application/json")


def item(text: str) -> bytes:
    return json.dumps({"type": "item", "content": text}).encode() + b"\n"


async def deltas(bootstrap: str, session_id: UUID) -> list[ReplyDelta]:
    """Every piece of a session's reply, in order."""
    found = []
    for record in await read_all(bootstrap, DELTAS.name):
        event = decode(record.topic, record.headers, record.value)
        assert isinstance(event, ReplyDelta)
        if event.session_id == session_id:
            found.append(event)
    return found


async def test_a_reply_is_told_while_it_is_being_written(bootstrap: str, postgres_url: str) -> None:
    watched = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(BEGIN + item("Hel")))
        await watched.wait()
        await sends(chunk(item("lo") + END) + chunk(b""))(reader, writer)

    sent = SessionEvents().sent()
    async with talker(talk) as server, dispatcher(bootstrap, postgres_url) as running:
        await add_persona(postgres_url, "p1", server.url)
        await publish_events(bootstrap, [sent])

        async def first_told() -> bool:
            return bool(await deltas(bootstrap, sent.session_id))

        await until(first_told, "the beginning of the reply was told")
        assert await results_of(bootstrap, sent.session_id) == []
        watched.set()
        told = await ended(bootstrap, sent.session_id)

        async def all_told() -> bool:
            return len(await deltas(bootstrap, sent.session_id)) == 2

        await until(all_told, "the rest of the reply was told")
        assert await running.metric('chat_dispatcher_reply_deltas_total{fate="dropped"}') == 0
    assert isinstance(told, WebhookSucceeded)
    assert told.reply == "Hello"
    pieces = await deltas(bootstrap, sent.session_id)
    assert [(piece.attempt, piece.index, piece.text) for piece in pieces] == [(1, 0, "Hel"), (1, 1, "lo")]
    assert {(p.conversation_id, p.persona_id, p.user_id) for p in pieces} == {("c1", "p1", "u1")}
    [message] = await read_all(bootstrap, MESSAGES.name)
    assert {(record.key, record.partition) for record in await read_all(bootstrap, DELTAS.name)} == {
        (message.key, message.partition)
    }


async def test_thousands_of_items_are_not_thousands_of_records(bootstrap: str, postgres_url: str) -> None:
    words = [f"{number} " for number in range(5_000)]
    pieces = [chunk(b"".join(map(item, words[at : at + 50]))) for at in range(0, len(words), 50)]
    sent = SessionEvents().sent()
    async with (
        talker(sends(HEAD, chunk(BEGIN), *pieces, chunk(END) + chunk(b""))) as server,
        dispatcher(bootstrap, postgres_url),
    ):
        await add_persona(postgres_url, "p1", server.url, timeoutSeconds=30.0)
        await publish_events(bootstrap, [sent])
        told = await ended(bootstrap, sent.session_id)
        assert isinstance(told, WebhookSucceeded)
        assert told.reply == "".join(words)

        async def whole() -> bool:
            return "".join(piece.text for piece in await deltas(bootstrap, sent.session_id)) == told.reply

        await until(whole, "the pieces told the whole reply")
    assert len(await deltas(bootstrap, sent.session_id)) < 500


async def test_a_new_attempt_begins_the_reply_anew(bootstrap: str, postgres_url: str) -> None:
    attempts = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await sends(HEAD + chunk(BEGIN + item("Goo")))(reader, writer)
            await told_of_first.wait()
            await resets(reader, writer)
        else:
            await sends(HEAD + chunk(BEGIN + item("Good") + END) + chunk(b""))(reader, writer)

    told_of_first = asyncio.Event()
    sent = SessionEvents().sent()
    async with talker(talk) as server, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", server.url, idempotent=True)
        await publish_events(bootstrap, [sent])

        async def pieces(count: int) -> bool:
            return len(await deltas(bootstrap, sent.session_id)) == count

        await until(lambda: pieces(1), "the first attempt was heard")
        told_of_first.set()
        told = await ended(bootstrap, sent.session_id)
        await until(lambda: pieces(2), "the second attempt was heard")
    assert isinstance(told, WebhookSucceeded)
    assert (told.reply, told.attempt) == ("Good", 2)
    by_attempt = defaultdict(list)
    for piece in await deltas(bootstrap, sent.session_id):
        by_attempt[piece.attempt].append((piece.index, piece.text))
    assert by_attempt == {1: [(0, "Goo")], 2: [(0, "Good")]}
    [failed, _] = await results_of(bootstrap, sent.session_id)
    assert isinstance(failed, WebhookAttempted)
    assert failed.first_byte_ms is not None


async def test_a_stream_that_stops_tells_which_execution_it_was_of() -> None:
    begin = b'{"type":"begin","metadata":{"executionId":233}}\n'
    async with talker(sends(HEAD + chunk(begin), then=hangs)) as server:
        exchange = await call(server.url, idle_seconds=0.2)
    assert exchange.outcome == NoAnswer(Trouble.NOT_IN_TIME, exchange.course.limit_text(Limit.IDLE))
    assert exchange.course.execution_id == "233"


async def test_without_kafka_pieces_are_dropped_and_the_reply_is_read(tmp_path: Path, reaper: Reaper) -> None:
    broker = start_broker(free_port(), tmp_path / "broker.log", reaper)
    courier = build_courier(settings_for(broker.bootstrap), request_timeout_ms=500)
    await courier.start()
    broker.process.stop(0)  # it keeps nothing
    metrics = DispatcherMetrics(CollectorRegistry())
    told = Deltas(courier, metrics)
    running = asyncio.create_task(told.run())
    writer = told.writer(SessionEvents().sent(), 1, TRACEPARENT)
    try:
        async with talker(sends(HEAD + chunk(BEGIN + item("Hello") + END) + chunk(b""))) as server:
            exchange = await call(server.url, hear=writer.hear)
        writer.flush()
        assert judge(exchange.outcome) == Reply("Hello")
        dropped = metrics.deltas.labels("dropped")
        await eventually(lambda: dropped._value.get() == 1, "the piece was dropped", seconds=30)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await courier.stop()


@pytest.mark.parametrize(
    ("piece", "most"),
    [
        ("x" * (MOST_WAITING_BYTES // 3), 2),
        ("☂" * (MOST_WAITING_BYTES // 6), 2),
        ("x", MOST_WAITING_BYTES // PIECE_BYTES),
    ],
)
async def test_what_waits_for_kafka_is_bounded(piece: str, most: int) -> None:
    metrics = DispatcherMetrics(CollectorRegistry())
    courier = build_courier(settings_for("127.0.0.1:1"))
    told = Deltas(courier, metrics)  # that does not run
    writer = told.writer(SessionEvents().sent(), 1, TRACEPARENT)
    dropped = metrics.deltas.labels("dropped")._value
    offered = 0
    while not dropped.get():
        writer.hear(piece)
        writer.flush()
        offered += 1
    assert 0.9 * most <= offered - 1 <= most
    await courier.stop()
