"""20,000 messages while dispatchers join, leave and die: nothing lost, reordered or repeated without need.

Each dispatcher has a database of its own, whose persona has a webhook path of its own: so each call tells who made it.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from services.contracts import MessageSent, WebhookAttempted
from services.local.postgres import EmbeddedPostgres
from services.local.reaper import Reaper
from tests.integration.dispatching import (
    add_persona,
    dispatcher_process,
    messages,
    results,
    until_all_committed,
)
from tests.integration.kafka_log import eventually
from tests.integration.tracker_process import publish_events
from tests.integration.webhook_server import Call, Webhook, echo, http, webhook_server

CONVERSATIONS = 500
MESSAGES_EACH = 40
LONGEST_SECONDS = 0.2
BUSY, BROKEN = 0.05, 0.02
"""How often a call is answered with 503, to be made again, and with a failed workflow, for good."""


@dataclass(slots=True)
class Book:
    """What the webhook saw."""

    called_by: dict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    told_busy: Counter[UUID] = field(default_factory=Counter)
    latest: dict[str, int] = field(default_factory=dict)
    calls_by: Counter[str] = field(default_factory=Counter)
    reordered: int = 0

    async def answer(self, call: Call) -> bytes:
        conversation, number = call.body["conversationId"], int(call.body["message"])
        self.reordered += number < self.latest.get(conversation, 0)
        self.latest[conversation] = number
        name = call.path.rpartition("/")[2]
        self.called_by[call.session_id].append(name)
        self.calls_by[name] += 1
        await asyncio.sleep(random.uniform(0, LONGEST_SECONDS))
        chance = random.random()
        if chance < BUSY:
            self.told_busy[call.session_id] += 1
            return http(b"busy", status=503)
        return http({"message": "Error in workflow"}, status=500) if chance < BUSY + BROKEN else await echo(call)

    def repeated(self) -> dict[UUID, list[str]]:
        """Sessions that were called more often than their answers asked for, and by whom."""
        return {session: by for session, by in self.called_by.items() if len(by) > 1 + self.told_busy[session]}


@pytest.mark.timeout(400)
async def test_dispatchers_that_join_leave_and_die(
    bootstrap: str, postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path: Path, reaper: Reaper
) -> None:
    book, sent = Book(), messages(conversations=CONVERSATIONS, each=MESSAGES_EACH)
    async with webhook_server(book.answer) as webhook:

        async def start(name: str):  # type: ignore[no-untyped-def]
            url = await database(postgres_server, migrated_template, name, webhook)
            # Long enough that a process which is short of CPU is not taken for dead: that would be another test.
            return dispatcher_process(bootstrap, url, tmp_path / f"{name}.log", reaper, KAFKA_SESSION_TIMEOUT_MS="5000")

        def calls(share: float) -> Callable[[], bool]:
            return lambda: len(webhook.calls) >= share * len(sent)

        async with await start("first") as first:
            await publish_events(bootstrap, sent)
            await eventually(calls(0.05), "the first was at work", 60)
            async with await start("second") as second:
                await eventually(lambda: working(book, "second"), "the second was at work", 60)
                await eventually(calls(0.4), "two fifths were called", 120)
                first.kill_group()
                # Whatever the killed one had finished is in Kafka by now, and it can add nothing.
                told = {e.session_id for e in await results(bootstrap) if not isinstance(e, WebhookAttempted)}
                in_flight = {session for session, by in book.called_by.items() if "first" in by} - told
                async with await start("third") as third:
                    await eventually(lambda: working(book, "third"), "the third was at work", 60)
                    await eventually(calls(0.6), "three fifths were called", 120)
                    async with await start("fourth") as fourth:
                        await eventually(lambda: working(book, "fourth"), "the fourth was at work", 60)
                        await eventually(calls(0.8), "four fifths were called", 120)
                        # In a thread: the webhook must go on answering meanwhile.
                        assert await asyncio.to_thread(fourth.stop, 15) == 0
                    await eventually(lambda: len(book.called_by) == len(sent), "every session was called", 120)
                    await until_all_committed(bootstrap)
                    for remaining in (second, third):
                        assert await asyncio.to_thread(remaining.stop, 15) == 0
        ended = await results(bootstrap)
    terminal = Counter(event.session_id for event in ended if not isinstance(event, WebhookAttempted))
    check(book, sent, terminal, in_flight)


async def database(server: EmbeddedPostgres, template: str, name: str, webhook: Webhook) -> str:
    server.run_sql(f"CREATE DATABASE ledger_{name} TEMPLATE {template} STRATEGY file_copy")
    url = server.url(f"ledger_{name}")
    await add_persona(url, "p1", webhook.url(name))
    return url


def working(book: Book, name: str) -> bool:
    return book.calls_by[name] > 100


def check(book: Book, sent: list[MessageSent], terminal: Counter[UUID], in_flight: set[UUID]) -> None:
    repeated = book.repeated()
    told_twice = {session for session, times in terminal.items() if times > 1}
    ledger = {
        "messages": len(sent),
        "lost": len({message.session_id for message in sent} - terminal.keys()),
        "reordered": book.reordered,
        "in flight at the kill": len(in_flight),
        "called again": len(repeated),
        "of these not in flight": len(repeated.keys() - in_flight),
        "told twice": len(told_twice),
        "calls": dict(book.calls_by),
        "answers that asked for a retry": book.told_busy.total(),
    }
    print("\n" + "\n".join(f"  {name:<32}{value}" for name, value in ledger.items()))
    assert terminal.keys() == {message.session_id for message in sent}
    assert book.reordered == 0
    assert {session: by for session, by in repeated.items() if session not in in_flight} == {}
    assert told_twice <= in_flight
    assert book.calls_by.keys() == {"first", "second", "third", "fourth"}
