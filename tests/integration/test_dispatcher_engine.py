"""The dispatcher between a real broker, a real PostgreSQL and a webhook server: order, offsets, cancels, crashes."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from services.contracts import AttemptOutcome, FailureKind, MessageSent, WebhookAttempted, WebhookFailed
from services.contracts.topics import DISPATCHER_GROUP, MESSAGES, dead_letter_topic
from services.local.reaper import Reaper
from services.runtime.dead_letters import REASON_HEADER, REPLAY_GROUP_HEADER
from tests.integration.dispatching import (
    MESSAGE_PARTITIONS,
    Call,
    add_persona,
    dispatcher,
    dispatcher_process,
    echo,
    ended,
    http,
    never,
    read_to_highwater,
    results,
    results_of,
    until_ended,
    webhook_server,
)
from tests.integration.kafka_log import Sent, eventually, send
from tests.integration.tracker_process import offsets, own_broker, publish_events, until
from tests.sample_events import SessionEvents


@pytest.fixture
def bootstrap(tmp_path: Path, reaper: Reaper) -> Iterator[str]:
    with own_broker(tmp_path, reaper) as address:
        yield address


def messages(conversations: int, each: int) -> list[MessageSent]:
    """Messages of several conversations, interleaved."""
    return [SessionEvents(conversation=f"c{c}").sent(f"{n}") for n in range(each) for c in range(conversations)]


async def until_all_committed(bootstrap: str) -> None:
    counts = Counter(record.partition for record in await read_to_highwater(bootstrap, MESSAGES.name))

    async def committed() -> bool:
        found = await offsets(bootstrap, DISPATCHER_GROUP, MESSAGE_PARTITIONS)
        return all(found[partition] == counts[partition.partition] for partition in MESSAGE_PARTITIONS)

    await until(committed, "every offset was committed")


async def rewind(bootstrap: str) -> None:
    """Make the group, which has no members now, begin again at the first record of every partition."""
    member = AIOKafkaConsumer(
        MESSAGES.name,
        bootstrap_servers=bootstrap,
        group_id=DISPATCHER_GROUP,
        enable_auto_commit=False,
        session_timeout_ms=1000,
        heartbeat_interval_ms=300,
        partition_assignment_strategy=(RangePartitionAssignor,),
    )
    await member.start()
    try:

        async def joined() -> bool:
            return bool(member.assignment() == set(MESSAGE_PARTITIONS))

        await until(joined, "the group was joined")
        await member.commit(dict.fromkeys(MESSAGE_PARTITIONS, 0))
    finally:
        await member.stop()


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
    assert (told[1].occurred_at - told[0].occurred_at).total_seconds() < 1.5


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


async def test_nothing_known_is_called_again_when_the_offsets_are_lost(bootstrap: str, postgres_url: str) -> None:
    sent = messages(conversations=40, each=5)
    for_good = [SessionEvents(conversation=f"c{n}") for n in range(8)]

    async def answer(call: Call) -> bytes:
        return await (never if call.session_id in {s.session_id for s in for_good} else echo)(call)

    async with webhook_server(answer) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        async with dispatcher(bootstrap, postgres_url):
            await publish_events(bootstrap, [*sent, *(session.sent() for session in for_good)])
            await until_ended(bootstrap, len(sent))
            await eventually(lambda: len(webhook.calls) == 208, "the last calls hung")
            await publish_events(bootstrap, [session.cancelled() for session in for_good])
            await until_all_committed(bootstrap)
        before = len(await results(bootstrap))
        await rewind(bootstrap)
        late = SessionEvents(conversation="late").sent()
        async with dispatcher(bootstrap, postgres_url) as running:
            await publish_events(bootstrap, [late])
            await ended(bootstrap, late.session_id)
            await until_all_committed(bootstrap)
            known = await running.metric('chat_dispatcher_finished_messages_total{end="known"}')
    assert known == 208
    assert len(webhook.calls) == 208 + 1
    assert len(await results(bootstrap)) == before + 1


async def test_an_older_id_makes_the_partition_learn_from_further_back(bootstrap: str, postgres_url: str) -> None:
    hour_ago = UUID(int=(int((time.time() - 3600) * 1000) << 80) | (7 << 76) | (2 << 62) | random.getrandbits(60))
    old, fresh, twin = SessionEvents(session_id=hour_ago), SessionEvents(), SessionEvents(session_id=hour_ago)
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url) as running:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [fresh.sent()])
        await ended(bootstrap, fresh.session_id)
        await publish_events(bootstrap, [old.sent()])
        await ended(bootstrap, old.session_id)
        await publish_events(bootstrap, [twin.sent()])
        await until_all_committed(bootstrap)
        assert await running.metric('chat_dispatcher_finished_messages_total{end="known"}') == 1
    assert webhook.sessions() == [fresh.session_id, old.session_id]


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


async def test_a_stop_lets_running_calls_end_and_commits_them(bootstrap: str, postgres_url: str) -> None:
    async def answer(call: Call) -> bytes:
        await asyncio.sleep(1)
        return await echo(call)

    sent = messages(conversations=20, each=2)
    async with webhook_server(answer) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        async with dispatcher(bootstrap, postgres_url):
            await publish_events(bootstrap, sent)
            await eventually(lambda: len(webhook.calls) == 20, "the first message of each conversation was called")
        assert len(await results(bootstrap)) == 20
        async with dispatcher(bootstrap, postgres_url):
            await until_ended(bootstrap, 40)
    assert Counter(webhook.sessions()) == Counter(message.session_id for message in sent)


async def test_a_call_that_outlasts_the_stop_is_released_silently(bootstrap: str, postgres_url: str) -> None:
    go_on = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await go_on.wait()
        return await echo(call)

    session = SessionEvents()
    async with webhook_server(answer) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        async with dispatcher(bootstrap, postgres_url, dispatcher_stop_seconds=0.2):
            await publish_events(bootstrap, [session.sent()])
            await eventually(lambda: len(webhook.calls) == 1, "the call ran")
        assert await results(bootstrap) == []
        go_on.set()
        async with dispatcher(bootstrap, postgres_url):
            await ended(bootstrap, session.session_id)
    assert len(webhook.calls) == 2


async def test_a_kill_loses_nothing_and_repeats_only_what_ran(
    bootstrap: str, postgres_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    running: set[UUID] = set()
    reordered = 0
    last: dict[str, int] = {}

    async def answer(call: Call) -> bytes:
        nonlocal reordered
        number, conversation = int(call.body["message"]), call.body["conversationId"]
        reordered += number < last.get(conversation, -1)
        last[conversation] = number
        running.add(call.session_id)
        await asyncio.sleep(random.uniform(0, 0.1))
        running.discard(call.session_id)
        return await echo(call)

    sent = messages(conversations=50, each=10)
    async with webhook_server(answer) as webhook:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        with dispatcher_process(bootstrap, postgres_url, tmp_path / "killed.log", reaper) as killed:
            await publish_events(bootstrap, sent)
            await eventually(lambda: len(webhook.calls) >= 150, "150 calls were made")
            killed.kill_group()
            in_flight = len(running)
            called = len(webhook.calls)
        with dispatcher_process(bootstrap, postgres_url, tmp_path / "next.log", reaper):
            told = await until_ended(bootstrap, len(sent))
            await until_all_committed(bootstrap)
    terminal = Counter(event.session_id for event in told)
    repeated = len(webhook.calls) - len(set(webhook.sessions()))
    print(
        f"accepted {len(sent)}, ended {len(terminal)}, called before the kill {called} ({in_flight} running), "
        f"called again {repeated}, told twice {sum(n > 1 for n in terminal.values())}, reordered {reordered}"
    )
    assert terminal.keys() == {message.session_id for message in sent}
    # One call a conversation runs at most; its result may have been on its way to Kafka.
    assert repeated <= 50
    assert reordered == 0


async def test_two_dispatchers_share_the_work_and_leave_without_a_trace(bootstrap: str, postgres_url: str) -> None:
    order: dict[str, list[int]] = defaultdict(list)

    async def answer(call: Call) -> bytes:
        order[call.body["conversationId"]].append(int(call.body["message"]))
        await asyncio.sleep(random.uniform(0, 0.1))
        return await echo(call)

    sent = messages(conversations=100, each=20)
    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url) as first:
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await first.until_ready()
        publishing = asyncio.create_task(publish_events(bootstrap, sent))
        await eventually(lambda: len(webhook.calls) > 200, "the first was at work")
        async with dispatcher(bootstrap, postgres_url) as second:

            async def at_work() -> bool:
                return await second.metric('chat_dispatcher_finished_messages_total{end="called"}') > 100

            await until(at_work, "the second was at work")
        await publishing
        told = await until_ended(bootstrap, len(sent))
        await until_all_committed(bootstrap)
    assert Counter(event.session_id for event in told) == Counter(message.session_id for message in sent)
    assert order == {f"c{c}": list(range(20)) for c in range(100)}


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
        partition = next(r.partition for r in await read_to_highwater(bootstrap, MESSAGES.name))

        async def paused() -> bool:
            return await running.metric(f'chat_dispatcher_paused_partition{{partition="{partition}"}}') == 1

        await until(paused, "the partition was paused")
        held = await running.metric(f'chat_dispatcher_held_messages{{partition="{partition}"}}')
        assert 20 <= held <= 520
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
    letters = await read_to_highwater(bootstrap, dead_letter_topic(MESSAGES.name, DISPATCHER_GROUP).name)
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


async def test_a_message_older_than_a_session_may_be_is_failed_as_expired(bootstrap: str, postgres_url: str) -> None:
    hour_ago = UUID(int=(int((time.time() - 3600) * 1000) << 80) | (7 << 76) | (2 << 62))
    sent = SessionEvents(session_id=hour_ago).sent()
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url, chat_session_timeout_hours=0.5):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await publish_events(bootstrap, [sent])
        told = await ended(bootstrap, sent.session_id)
    assert getattr(told, "failure_kind", None) is FailureKind.EXPIRED
    assert webhook.calls == []
