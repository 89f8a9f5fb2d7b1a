"""Cancels of running calls, of waiting messages, and of messages that have not come yet."""

import asyncio

import pytest

from services.contracts import AttemptOutcome, WebhookAttempted
from tests.integration.calling import chunk, head, talker
from tests.integration.dispatching import (
    add_persona,
    dispatcher,
    ended,
    results_of,
    until_all_committed,
    until_ended,
)
from tests.integration.kafka_log import eventually
from tests.integration.tracker_process import publish_events, until
from tests.integration.webhook_server import Call, echo, http, never, webhook_server
from tests.sample_events import SessionEvents


@pytest.mark.any_broker
async def test_a_cancel_closes_the_socket_of_the_running_call(bootstrap: str, postgres_url: str) -> None:
    first, second = SessionEvents(), SessionEvents()

    async def answer(call: Call) -> bytes:
        return await (never if call.session_id == first.session_id else echo)(call)

    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [first.sent(), second.sent()])
        await eventually(lambda: len(webhook.calls) == 1, "the first call ran")
        await publish_events(bootstrap, [first.cancelled()])
        await eventually(lambda: len(webhook.broken_off) == 1, "the socket was closed", seconds=3)
        await ended(bootstrap, second.session_id)
        await until_all_committed(bootstrap)
    (told,) = await results_of(bootstrap, first.session_id)
    assert isinstance(told, WebhookAttempted)
    assert (told.outcome, told.attempt) == (AttemptOutcome.CANCELLED, 1)


@pytest.mark.parametrize(
    "beginning",
    [
        head(transfer_encoding="chunked", x_n8n_execution_id="233"),
        head(transfer_encoding="chunked") + chunk(b'{"type":"begin","metadata":{"executionId":"233"}}\n'),
    ],
    ids=["header", "line"],
)
@pytest.mark.any_broker
async def test_a_cancelled_call_tells_the_execution_that_its_answer_has_named(
    bootstrap: str, postgres_url: str, beginning: bytes
) -> None:
    session, began = SessionEvents(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        began.set()
        await reader.read()

    async with talker(talk) as server, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", server.url)
        await publish_events(bootstrap, [session.sent()])
        await asyncio.wait_for(began.wait(), 20)
        await publish_events(bootstrap, [session.cancelled()])
        await until_all_committed(bootstrap)
    (told,) = await results_of(bootstrap, session.session_id)
    assert isinstance(told, WebhookAttempted)
    assert (told.outcome, told.execution_id) == (AttemptOutcome.CANCELLED, "233")


async def test_a_cancelled_message_that_waits_is_never_called(bootstrap: str, postgres_url: str) -> None:
    first, second, third = SessionEvents(), SessionEvents(), SessionEvents()
    go_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await go_on.wait()
        return await echo(call)

    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url) as running:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [first.sent(), second.sent(), third.sent()])
        await eventually(lambda: len(webhook.calls) == 1, "the first call ran")
        await publish_events(bootstrap, [second.cancelled()])

        async def cancelled() -> bool:
            return await running.metric('chat_dispatcher_finished_messages_total{end="cancelled"}') == 1

        await until(cancelled, "the waiting message was removed")
        go_on.set()
        await ended(bootstrap, third.session_id)
        await until_all_committed(bootstrap)
    assert webhook.sessions() == [first.session_id, third.session_id]
    assert await results_of(bootstrap, second.session_id) == []


@pytest.mark.any_broker
async def test_a_cancel_between_two_attempts_ends_the_waiting(bootstrap: str, postgres_url: str) -> None:
    async def answer(call: Call) -> bytes:
        return http(b"busy", status=503, retry_after="50")

    session = SessionEvents()
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [session.sent()])

        async def told() -> bool:
            return len(await results_of(bootstrap, session.session_id)) == 1

        await until(told, "the first attempt was told")
        await publish_events(bootstrap, [session.cancelled()])
        await until_all_committed(bootstrap)
    assert len(await results_of(bootstrap, session.session_id)) == len(webhook.calls) == 1


async def test_a_cancel_before_its_message_is_remembered_across_a_restart(bootstrap: str, postgres_url: str) -> None:
    cancelled, other, foreign = SessionEvents(), SessionEvents(), SessionEvents()
    async with webhook_server() as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        async with dispatcher(bootstrap, postgres_url) as running:
            await running.until_ready()
            someone_else = foreign.cancelled().model_copy(update={"user_id": "u2"})
            await publish_events(bootstrap, [cancelled.cancelled(), someone_else])
        async with dispatcher(bootstrap, postgres_url):
            await publish_events(bootstrap, [cancelled.sent(), foreign.sent(), other.sent()])
            await until_ended(bootstrap, 2)
            await until_all_committed(bootstrap)
    assert webhook.sessions() == [foreign.session_id, other.session_id]
