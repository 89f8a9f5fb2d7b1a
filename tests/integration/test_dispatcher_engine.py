"""The dispatcher between a real broker, a real PostgreSQL and a webhook server: order, retries, limits, bad input."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.contracts import (
    AttemptOutcome,
    CancelRequested,
    FailureKind,
    MessageSent,
    WebhookAttempted,
    WebhookFailed,
)
from services.contracts.topics import CONTROL, DISPATCHER_GROUP, MESSAGES, RESULTS, dead_letter_topic
from services.runtime.dead_letters import REASON_HEADER, REPLAY_GROUP_HEADER
from tests.integration.dispatching import (
    add_persona,
    dispatcher,
    ended,
    messages,
    results,
    results_of,
    until_all_committed,
    until_ended,
)
from tests.integration.kafka_log import Sent, eventually, read_all, send
from tests.integration.tracker_process import publish_events, until
from tests.integration.webhook_server import Call, echo, http, never, webhook_server
from tests.sample_events import SessionEvents


async def test_conversations_run_side_by_side_and_each_in_order(bootstrap: str, postgres_url: str) -> None:
    running: Counter[str] = Counter()
    most, overlaps = 0, 0
    order: dict[str, list[str]] = defaultdict(list)

    async def answer(call: Call) -> bytes:
        nonlocal most, overlaps
        conversation = call.body["conversationId"]
        running[conversation] += 1
        overlaps += running[conversation] > 1
        most = max(most, running.total())
        order[conversation].append(call.body["message"])
        await asyncio.sleep(random.uniform(0, 0.05))
        running[conversation] -= 1
        return await echo(call)

    sent = messages(conversations=20, each=10)
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, sent)
        told = await until_ended(bootstrap, len(sent))
        await until_all_committed(bootstrap)
    assert order == {f"c{c}": [str(n) for n in range(10)] for c in range(20)}
    assert (overlaps, most > 5) == (0, True)
    assert len(webhook.calls) == len(told) == len(sent)
    replies = {event.session_id: getattr(event, "reply", None) for event in told}
    assert replies == {message.session_id: f"You said: {message.message}" for message in sent}


@pytest.mark.any_broker
async def test_a_call_carries_the_message_and_its_ids(bootstrap: str, postgres_url: str) -> None:
    sent = SessionEvents(conversation="c7", user="u7").sent("Grüße\n☂")
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [sent])
        reply = await ended(bootstrap, sent.session_id)
    call = webhook.calls[0]
    assert call.body == {
        "message": "Grüße\n☂",
        "conversationId": "c7",
        "personaId": "p1",
        "userId": "u7",
        "sessionId": str(sent.session_id),
    }
    assert call.headers["webhook-id"] == call.headers["idempotency-key"] == str(sent.session_id)
    assert call.headers["traceparent"].startswith("00-")
    assert call.headers["content-type"] == "application/json"
    assert (reply.conversation_id, reply.user_id, reply.attempt, reply.status_code) == ("c7", "u7", 1, 200)


@pytest.mark.any_broker
async def test_a_call_that_started_nothing_is_made_again(bootstrap: str, postgres_url: str) -> None:
    async def answer(call: Call) -> bytes:
        if call.number < 3:
            return http({"message": "Workflow Webhook Error: Workflow could not be started!"}, status=500)
        return await echo(call)

    sent = SessionEvents().sent()
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [sent])
        last = await ended(bootstrap, sent.session_id)
    told = await results_of(bootstrap, sent.session_id)
    attempts = [event for event in told if isinstance(event, WebhookAttempted)]
    assert [(e.attempt, e.outcome, e.failure_kind, e.status_code) for e in attempts] == [
        (n, AttemptOutcome.FAILED, FailureKind.WORKFLOW_ERROR, 500) for n in (1, 2)
    ]
    assert all(e.retry_at is not None and "could not be started" in (e.response_body or "") for e in attempts)
    assert (last.attempt, getattr(last, "reply", None)) == (3, "You said: hello")


@pytest.mark.any_broker
async def test_what_may_have_run_is_called_again_only_for_an_idempotent_persona(
    bootstrap: str, postgres_url: str
) -> None:
    async def answer(call: Call) -> bytes:
        return http({"message": "Error in workflow"}, status=500)

    once, thrice = SessionEvents(persona="once").sent(), SessionEvents(persona="thrice").sent()
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "once", webhook.url("once"))
        await add_persona(postgres_url, "thrice", webhook.url("thrice"), idempotent=True)
        await publish_events(bootstrap, [once, thrice])
        told = [await ended(bootstrap, message.session_id) for message in (once, thrice)]
    assert [getattr(event, "failure_kind", None) for event in told] == [FailureKind.WORKFLOW_ERROR] * 2
    assert [webhook.calls_of(message.session_id) for message in (once, thrice)] == [1, 3]


@pytest.mark.any_broker
async def test_the_deadline_ends_retries_and_runs_from_the_head_of_the_conversation(
    bootstrap: str, postgres_url: str
) -> None:
    async def answer(call: Call) -> bytes:
        return http(b"busy", status=503)

    sent = [SessionEvents().sent(), SessionEvents().sent()]
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), deadlineSeconds=1.0, maxAttempts=100)
        await publish_events(bootstrap, sent)
        told = [await ended(bootstrap, message.session_id) for message in sent]
    assert [getattr(event, "failure_kind", None) for event in told] == [FailureKind.HTTP_5XX] * 2
    # The second began when the first had used up its whole deadline, and still was tried.
    assert all(webhook.calls_of(message.session_id) >= 2 for message in sent)
    # A hundred tries would have taken minutes.
    assert (told[1].occurred_at - told[0].occurred_at).total_seconds() < 10


@pytest.mark.any_broker
async def test_a_call_that_hangs_ends_at_its_timeout(bootstrap: str, postgres_url: str) -> None:
    sent = SessionEvents().sent()
    async with webhook_server(never) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), timeoutSeconds=0.3)
        await publish_events(bootstrap, [sent])
        told = await ended(bootstrap, sent.session_id)
        await eventually(lambda: len(webhook.broken_off) == 1, "the socket was closed")
    assert isinstance(told, WebhookFailed)
    assert told.failure_kind is FailureKind.TIMEOUT
    assert 250 <= told.duration_ms < 2_000


async def test_a_message_sent_twice_is_called_once(bootstrap: str, postgres_url: str) -> None:
    go_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await go_on.wait()
        return await echo(call)

    session = SessionEvents()
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [session.sent(), session.sent()])
        await eventually(lambda: len(webhook.calls) == 1, "the call ran")
        go_on.set()
        await ended(bootstrap, session.session_id)
        await publish_events(bootstrap, [session.sent()])
        await until_all_committed(bootstrap)
    assert len(webhook.calls) == len(await results(bootstrap)) == 1


async def test_a_partition_is_paused_at_high_water(bootstrap: str, postgres_url: str) -> None:
    go_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await go_on.wait()
        return await echo(call)

    sent = [SessionEvents(conversation="c1").sent(str(n)) for n in range(700)]
    async with (
        webhook_server(answer) as webhook,
        dispatcher(bootstrap, postgres_url, dispatcher_held_messages=20) as running,
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, sent)
        partition = next(r.partition for r in await read_all(bootstrap, MESSAGES.name))

        async def held() -> float:
            return await running.metric(f'chat_dispatcher_held_messages{{partition="{partition}"}}')

        async def paused_by_what_it_holds() -> bool:
            # While it catches up it is paused as well, and holds nothing.
            paused = await running.metric(f'chat_dispatcher_paused_partition{{partition="{partition}"}}')
            return paused == 1 and await held() >= 20

        await until(paused_by_what_it_holds, "the partition was paused")
        assert await held() <= 520
        assert await running.problems() == {}
        go_on.set()
        await until_ended(bootstrap, len(sent))
    assert [call.body["message"] for call in webhook.calls] == [str(n) for n in range(700)]


async def test_bad_neighbours_are_dead_lettered_and_the_good_ones_called(bootstrap: str, postgres_url: str) -> None:
    good = [SessionEvents(conversation="c1").sent(str(n)) for n in range(3)]
    ahead = UUID(int=(int((time.time() + 3600) * 1000) << 80) | (7 << 76) | (2 << 62))
    bad_events = [
        SessionEvents(conversation="c1").sent("a\0b"),
        SessionEvents(conversation="c1").sent("x" * 40_000),
        SessionEvents(session_id=ahead, conversation="c1").sent(at=datetime.now(UTC)),
    ]
    message_type = [("ce_type", MessageSent.ce_type.encode())]
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [good[0], *bad_events, good[1]])
        bad_records = [
            Sent(b"{", b"c1", message_type),
            Sent(b"{}", b"c1", [("ce_type", b"chat.MessageSent.v9")]),
            Sent(b"{}", b"c1", [("ce_type", None)]),
            Sent(None, b"c1", message_type),
            Sent(good[0].model_dump_json(by_alias=True).encode(), b"c1", [(REPLAY_GROUP_HEADER, b"session-tracker")]),
        ]
        await send(bootstrap, MESSAGES.name, bad_records)
        await publish_events(bootstrap, [good[2]])
        await until_ended(bootstrap, 3)
        await until_all_committed(bootstrap)
    assert webhook.sessions() == [message.session_id for message in good]
    letters = await read_all(bootstrap, dead_letter_topic(MESSAGES.name, DISPATCHER_GROUP).name)
    reasons = Counter(dict(letter.headers)[REASON_HEADER] for letter in letters)
    assert reasons == {
        b"characters": 1,
        b"too-large": 1,
        b"session-id-ahead": 1,
        b"malformed": 1,
        b"unknown-type": 1,
        b"no-type": 1,
        b"no-body": 1,
    }


async def test_what_tells_nothing_on_results_and_control_stops_nothing(bootstrap: str, postgres_url: str) -> None:
    session = SessionEvents(conversation="c1")
    for topic, kind in ((RESULTS, WebhookFailed), (CONTROL, CancelRequested)):
        ce_type = ("ce_type", kind.ce_type.encode())
        headers = [[ce_type], [ce_type, ("ce_subject", None)], [ce_type, ("ce_subject", b"x")], [("ce_type", None)]]
        await send(bootstrap, topic.name, [Sent(b"{", b"c1", each) for each in headers])
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [session.sent()])
        await until_all_committed(bootstrap)
    assert webhook.sessions() == [session.session_id]


@pytest.mark.any_broker
async def test_a_message_older_than_a_session_may_be_is_failed_as_expired(bootstrap: str, postgres_url: str) -> None:
    hour_ago = UUID(int=(int((time.time() - 3600) * 1000) << 80) | (7 << 76) | (2 << 62))
    sent = SessionEvents(session_id=hour_ago).sent()
    to_nobody = SessionEvents(session_id=UUID(int=hour_ago.int + 1), persona="nobody").sent()
    async with (
        webhook_server() as webhook,
        dispatcher(bootstrap, postgres_url, chat_session_timeout_hours=0.5) as running,
    ):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [sent, to_nobody])
        told = [await ended(bootstrap, message.session_id) for message in (sent, to_nobody)]
        # What names a persona that does not exist makes no label, however old it is.
        assert not any("nobody" in line for line in await running.metrics("chat_webhook_attempts_total"))
    kinds = [getattr(event, "failure_kind", None) for event in told]
    assert kinds == [FailureKind.EXPIRED, FailureKind.UNKNOWN_PERSONA]
    assert webhook.calls == []
