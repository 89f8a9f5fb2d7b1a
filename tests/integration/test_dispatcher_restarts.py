"""What a dispatcher that stops, dies, joins or leaves does to messages: nothing lost, nothing called without need."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from uuid import UUID

from services.contracts import encode
from services.contracts.topics import MESSAGES
from services.local.reaper import Reaper
from tests.integration.dispatching import (
    Dispatcher,
    add_persona,
    dispatcher,
    dispatcher_process,
    ended,
    messages,
    results,
    rewind,
    until_all_committed,
    until_ended,
)
from tests.integration.kafka_log import Sent, eventually, send
from tests.integration.tracker_process import publish_events, until
from tests.integration.webhook_server import Call, echo, never, webhook_server
from tests.sample_events import SessionEvents


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
            await until(partial(nothing_left, running), "messages alone were told to lag, and none did")
    assert known == 208
    assert len(webhook.calls) == 208 + 1
    assert len(await results(bootstrap)) == before + 1


async def nothing_left(running: Dispatcher) -> bool:
    """Whether the lag is 0, of messages alone: results are read to learn from them, and never finished."""
    lags = await running.metrics("chat_consumer_lag_records{")
    return bool(lags) and all(f'topic="{MESSAGES.name}"' in line and line.endswith(" 0.0") for line in lags)


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


async def test_a_result_that_the_tracker_refuses_keeps_no_message_from_its_call(
    bootstrap: str, postgres_url: str
) -> None:
    session = SessionEvents(conversation="c", user="anna")
    of_another = SessionEvents(conversation="c", user="bert", session_id=session.session_id)
    topic, _, key, headers = encode(session.succeeded(), source="/another-service")
    await send(bootstrap, topic, [Sent(b"{}", key=key, headers=headers)])
    await publish_events(bootstrap, [of_another.succeeded(), session.sent()])
    async with webhook_server() as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"))
        await eventually(lambda: webhook.sessions() == [session.session_id], "the message was called")


async def test_a_stop_lets_running_calls_end_and_commits_them(bootstrap: str, postgres_url: str) -> None:
    async def answer(call: Call) -> bytes:
        # As a webhook that takes its time: every conversation's first call still runs when the stop begins.
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
        async with dispatcher_process(bootstrap, postgres_url, tmp_path / "killed.log", reaper) as killed:
            await publish_events(bootstrap, sent)
            await eventually(lambda: len(webhook.calls) >= 150, "150 calls were made")
            killed.kill_group()
            in_flight = len(running)
            called = len(webhook.calls)
        async with dispatcher_process(bootstrap, postgres_url, tmp_path / "next.log", reaper):
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

            async def each_shows_its_own() -> bool:
                shown = [await running.metrics("chat_dispatcher_held_messages{") for running in (first, second)]
                return [len(lines) for lines in shown] == [4, 4]

            await until(each_shows_its_own, "each dispatcher showed its own partitions and no others")
        await publishing
        told = await until_ended(bootstrap, len(sent))
        await until_all_committed(bootstrap)
    assert Counter(event.session_id for event in told) == Counter(message.session_id for message in sent)
    assert order == {f"c{c}": list(range(20)) for c in range(100)}
