"""A persona that is paused: its messages wait, others do not, and what waited goes on as it would have."""

import asyncio
from itertools import count
from uuid import UUID

import pytest
from aiokafka.partitioner import murmur2

from services.contracts import FailureKind, MessageSent, WebhookFailed, WebhookSucceeded
from services.contracts.topics import MESSAGES
from services.webhook_dispatcher import personas
from tests.integration.dispatching import (
    Dispatcher,
    add_persona,
    dispatcher,
    ended,
    results_of,
    until_all_committed,
    until_ended,
)
from tests.integration.kafka_log import eventually
from tests.integration.tracker_process import connected, publish_events, until
from tests.integration.webhook_server import Call, echo, http, webhook_server
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker


@pytest.fixture(autouse=True)
def looked_up_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personas, "REFRESH_SECONDS", 0.2)


async def resume(postgres_url: str, persona_id: str = "p1") -> None:
    async with connected(postgres_url) as rows:
        await rows.execute('UPDATE personas SET paused = false WHERE "personaId" = $1', persona_id)


async def held(running: Dispatcher, count: int) -> None:
    """Return once the dispatcher has told that so many messages wait."""

    async def told() -> bool:
        lines = await running.metrics("chat_dispatcher_held_messages")
        return sum(float(line.rpartition(" ")[2]) for line in lines) == count

    await until(told, f"{count} messages were held")


async def test_messages_wait_in_order_for_what_the_pause_was_for(bootstrap: str, postgres_url: str) -> None:
    sent = [SessionEvents(conversation=f"c{n % 2}").sent(str(n)) for n in range(6)]
    async with (
        webhook_server() as old,
        webhook_server() as new,
        dispatcher(bootstrap, postgres_url) as running,
    ):
        await add_persona(postgres_url, "p1", old.url("p1"), paused=True, deadlineSeconds=0.5)
        await publish_events(bootstrap, sent)
        await held(running, len(sent))
        assert await running.metric('chat_webhook_calls_limit{persona="p1"}') == 0
        await add_persona(postgres_url, "p1", new.url("p1"), deadlineSeconds=20.0)
        told = await until_ended(bootstrap, len(sent))
        await until_all_committed(bootstrap)
    assert all(isinstance(event, WebhookSucceeded) for event in told)
    assert (len(old.calls), len(new.calls)) == (0, len(sent))
    for name in ("c0", "c1"):
        ids = [message.session_id for message in sent if message.conversation_id == name]
        assert [event.session_id for event in told if event.conversation_id == name] == ids


async def test_a_pause_waits_for_running_calls_and_holds_retries_back(bootstrap: str, postgres_url: str) -> None:
    go_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        if len(webhook.calls) > 2:
            return await echo(call)
        await go_on.wait()
        return await echo(call) if call.body["message"] == "well" else http(503)

    well, ill = SessionEvents(conversation="c1").sent("well"), SessionEvents(conversation="c2").sent("ill")
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url) as running:
        await add_persona(postgres_url, "p1", webhook.url("p1"), deadlineSeconds=3.0)
        await publish_events(bootstrap, [well, ill])
        await eventually(lambda: len(webhook.calls) == 2, "both calls ran")
        async with connected(postgres_url) as rows:
            await rows.execute("UPDATE personas SET paused = true")

        async def paused() -> bool:
            return await running.metric('chat_webhook_calls_limit{persona="p1"}') == 0

        await until(paused, "the pause was noticed")
        go_on.set()
        assert isinstance(await ended(bootstrap, well.session_id), WebhookSucceeded)
        await asyncio.sleep(3)  # the deadline, of which some had passed before: it stands still
        assert len(webhook.calls) == 2
        await resume(postgres_url)
        assert isinstance(await ended(bootstrap, ill.session_id), WebhookSucceeded)


async def test_a_cancel_and_a_deletion_end_what_waits(bootstrap: str, postgres_url: str) -> None:
    cancelled, orphaned = SessionEvents(conversation="c1"), SessionEvents(conversation="c2")
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url) as running:
        await add_persona(postgres_url, "p1", webhook.url("p1"), paused=True)
        await publish_events(bootstrap, [cancelled.sent(), orphaned.sent()])
        await held(running, 2)
        await publish_events(bootstrap, [cancelled.cancelled()])
        await held(running, 1)
        async with connected(postgres_url) as rows:
            await rows.execute("DELETE FROM personas")
        told = await ended(bootstrap, orphaned.session_id)
        await until_all_committed(bootstrap)
    assert isinstance(told, WebhookFailed)
    assert told.failure_kind is FailureKind.UNKNOWN_PERSONA
    assert await results_of(bootstrap, cancelled.session_id) == []
    assert webhook.calls == []


async def test_what_waits_too_long_expires(bootstrap: str, postgres_url: str) -> None:
    sent = SessionEvents().sent()
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), paused=True, sessionTimeoutHours=4 / 3600)
        await publish_events(bootstrap, [sent])
        told = await ended(bootstrap, sent.session_id)
        await until_all_committed(bootstrap)
    assert isinstance(told, WebhookFailed)
    assert told.failure_kind is FailureKind.EXPIRED
    assert webhook.calls == []


async def test_half_of_the_window_is_held_and_others_get_on(bootstrap: str, postgres_url: str) -> None:
    names = (f"c{number}" for number in count())
    names = (name for name in names if (murmur2(name.encode()) & 0x7FFFFFFF) % MESSAGES.partitions == 0)
    waiting = [SessionEvents(conversation=next(names), persona="held").sent() for _ in range(20)]
    too_many = [SessionEvents(conversation=next(names), persona="held").sent() for _ in range(40)]
    others = [SessionEvents(conversation=next(names), persona="quick").sent() for _ in range(60)]
    async with (
        webhook_server() as mended,
        webhook_server() as quick,
        dispatcher(bootstrap, postgres_url, dispatcher_held_messages=40) as running,
    ):
        await add_persona(postgres_url, "held", mended.url("held"), paused=True)
        await add_persona(postgres_url, "quick", quick.url("quick"))
        await publish_events(bootstrap, [*waiting, *too_many, *others])
        told = await until_ended(bootstrap, len(too_many) + len(others))
        await held(running, len(waiting))
        await resume(postgres_url, "held")
        everything = await until_ended(bootstrap, len(waiting) + len(too_many) + len(others))
        await until_all_committed(bootstrap)
    failed = {event.session_id: event for event in told if isinstance(event, WebhookFailed)}
    assert set(failed) == ids(too_many)
    assert {event.failure_kind for event in failed.values()} == {FailureKind.OVERLOADED}
    assert all("paused" in event.error_message for event in failed.values())
    assert ids(waiting) == set(mended.sessions())
    assert len(everything) == len(waiting) + len(too_many) + len(others)


async def test_what_waits_behind_paused_ones_counts_as_theirs(bootstrap: str, postgres_url: str) -> None:
    names = (f"c{number}" for number in count())
    names = (name for name in names if (murmur2(name.encode()) & 0x7FFFFFFF) % MESSAGES.partitions == 0)
    mixed = [
        SessionEvents(conversation=name, persona=persona).sent()
        for name in (next(names) for _ in range(30))
        for persona in ("held", "quick")
    ]
    other = SessionEvents(conversation=next(names), persona="quick").sent()
    async with (
        webhook_server() as webhook,
        dispatcher(bootstrap, postgres_url, dispatcher_held_messages=40),
    ):
        await add_persona(postgres_url, "held", webhook.url("held"), paused=True)
        await add_persona(postgres_url, "quick", webhook.url("quick"))
        await publish_events(bootstrap, [*mixed, other])
        assert isinstance(await ended(bootstrap, other.session_id), WebhookSucceeded)


def ids(messages: list[MessageSent]) -> set[UUID]:
    return {message.session_id for message in messages}
