"""A persona that does not get on, in the midst of others; and a Kafka that does not acknowledge."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from prometheus_client import CollectorRegistry

from services.contracts import FailureKind, WebhookFailed, WebhookSucceeded
from services.contracts.topics import MESSAGES, RESULTS
from services.local.broker import start_broker
from services.local.processes import free_port
from services.local.reaper import Reaper
from services.runtime.kafka import build_producer
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics
from services.runtime.tracing import Unrecorded
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.results import Results
from tests.freezing import freeze, thaw
from tests.integration.dispatching import add_persona, dispatcher, ended, results_of, until_all_committed, until_ended
from tests.integration.kafka_log import eventually, read_all
from tests.integration.tracker_process import publish_events
from tests.integration.webhook_server import Call, echo, never, webhook_server
from tests.patience import PATIENT_SECONDS
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker


def conversations_of_one_partition() -> Iterator[str]:
    names = (f"c{number}" for number in count())
    return (name for name in names if (murmur2(name.encode()) & 0x7FFFFFFF) % MESSAGES.partitions == 0)


async def test_a_persona_that_hangs_does_not_fill_the_window(bootstrap: str, postgres_url: str) -> None:
    names = conversations_of_one_partition()
    hanging = [next(names) for _ in range(60)]
    flood = [SessionEvents(conversation=name, persona="hang").sent(str(n)) for n in range(2) for name in hanging]
    more = [SessionEvents(conversation=next(names), persona="hang").sent("0") for _ in range(40)]
    other = SessionEvents(conversation=next(names), persona="quick").sent()
    async with (
        webhook_server(never) as hang,
        webhook_server() as quick,
        dispatcher(bootstrap, postgres_url, dispatcher_held_messages=40, dispatcher_max_calls=10) as running,
    ):
        await add_persona(postgres_url, "hang", hang.url("hang"), timeoutSeconds=1.5, deadlineSeconds=4.0)
        await add_persona(postgres_url, "quick", quick.url("quick"))
        await publish_events(bootstrap, [*flood, *more, other])
        assert isinstance(await ended(bootstrap, other.session_id), WebhookSucceeded)
        told = await until_ended(bootstrap, len(flood) + len(more) + 1)
        await until_all_committed(bootstrap)
        overloaded = await running.metric('chat_dispatcher_finished_messages_total{end="overloaded"}')
    kinds = {event.session_id: event.failure_kind for event in told if isinstance(event, WebhookFailed)}
    shed = [session_id for session_id, kind in kinds.items() if kind is FailureKind.OVERLOADED]
    assert set(kinds.values()) <= {FailureKind.TIMEOUT, FailureKind.OVERLOADED}
    assert len(shed) == overloaded >= 100
    assert not set(shed) & set(hang.sessions())
    order = defaultdict(list)
    sent = {message.session_id: message for message in flood}
    for event in told:
        if event.session_id in sent:
            order[event.conversation_id].append(sent[event.session_id].message)
    assert order == {name: ["0", "1"] for name in hanging}


async def test_a_persona_that_answers_slowly_loses_nothing(bootstrap: str, postgres_url: str) -> None:
    async def slowly(call: Call) -> bytes:
        await asyncio.sleep(0.1)
        return await echo(call)

    names = conversations_of_one_partition()
    sent = [SessionEvents(conversation=next(names)).sent() for _ in range(120)]
    async with (
        webhook_server(slowly) as webhook,
        dispatcher(bootstrap, postgres_url, dispatcher_held_messages=10, dispatcher_max_calls=5),
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"), deadlineSeconds=1.0)
        await publish_events(bootstrap, sent)
        told = await until_ended(bootstrap, len(sent))
    assert all(isinstance(event, WebhookSucceeded) for event in told)
    assert len(webhook.calls) == len(sent)


async def test_a_cancel_reaches_a_message_that_waits_for_a_slot(bootstrap: str, postgres_url: str) -> None:
    running, waiting = SessionEvents(conversation="c1"), SessionEvents(conversation="c2")
    third = SessionEvents(conversation="c3")
    go_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await go_on.wait()
        return await echo(call)

    async with (
        webhook_server(answer) as webhook,
        dispatcher(bootstrap, postgres_url, dispatcher_max_calls=1),
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [running.sent()])
        await eventually(lambda: len(webhook.calls) == 1, "the first call ran")
        await publish_events(bootstrap, [waiting.sent(), third.sent(), waiting.cancelled(), running.cancelled()])
        await eventually(lambda: len(webhook.calls) == 2, "the third got the slot")
        go_on.set()
        await ended(bootstrap, third.session_id)
        await until_all_committed(bootstrap)
    assert webhook.sessions() == [running.session_id, third.session_id]
    assert await results_of(bootstrap, waiting.session_id) == []


async def test_a_result_is_published_until_it_is_acknowledged(tmp_path: Path, reaper: Reaper) -> None:
    broker = start_broker(free_port(), tmp_path / "broker.log", reaper)
    settings = KafkaSettings(
        kafka_bootstrap_servers=broker.bootstrap, kafka_idempotence=False, kafka_replication_factor=1
    )
    await create_topics(settings)
    producer = build_producer(settings, request_timeout_ms=300)
    await producer.start()
    results = Results(producer, DispatcherMetrics(CollectorRegistry()))
    event = SessionEvents().succeeded()
    try:
        await results.publish(event, Unrecorded("00-1"))
        assert results.not_ready() is None
        freeze(broker.process.pid)
        again = SessionEvents().succeeded()
        publishing = asyncio.create_task(results.publish(again, Unrecorded("00-2")))
        await eventually(lambda: results.not_ready() is not None, "readiness told that Kafka does not acknowledge")
        assert not publishing.done()
        thaw(broker.process.pid)
        async with asyncio.timeout(PATIENT_SECONDS):
            await publishing
        assert results.not_ready() is None
        ids = [dict(record.headers)["ce_id"].decode() for record in await read_all(broker.bootstrap, RESULTS.name)]
    finally:
        thaw(broker.process.pid)
        await producer.stop()
        broker.process.stop(0)
    # What arrived although it was not acknowledged has the same id.
    assert set(ids) == {str(event.event_id), str(again.event_id)}
