"""A steady load over HTTP that knows what was accepted, in which order, and how long each acceptance took."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp

CONVERSATIONS = 60
PER_SECOND = 150
PATIENCE_SECONDS = 90
"""How long a message is repeated until it is accepted."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that was answered 202: `seconds` after it was first sent, in so many tries."""

    session_id: str
    seconds: float
    tries: int


@dataclass(slots=True)
class Load:
    """What was sent; `conversations` has the messages of each in the order in which they were sent.

    A conversation's next message is sent once the one before is accepted.
    """

    conversations: dict[str, list[Accepted]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def accepted(self) -> list[Accepted]:
        return [message for messages in self.conversations.values() for message in messages]


@asynccontextmanager
async def steady_load(gateway_url: str, token: str) -> AsyncIterator[Load]:
    """Send 150 messages a second while the block runs; half of the conversations have a persona of uneven speed."""
    load, stopping = Load(), asyncio.Event()
    async with aiohttp.ClientSession(
        gateway_url,
        connector=aiohttp.TCPConnector(limit=CONVERSATIONS),
        headers={"authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=15),
    ) as client:
        names = [f"load-{uuid4()}" for _ in range(CONVERSATIONS)]
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                persona = "uneven" if number % 2 else "echo"
                group.create_task(_converse(client, load, stopping, name, persona, number))
            try:
                yield load
            finally:
                stopping.set()


async def _converse(
    client: aiohttp.ClientSession, load: Load, stopping: asyncio.Event, name: str, persona: str, number: int
) -> None:
    messages = load.conversations.setdefault(name, [])
    interval = CONVERSATIONS / PER_SECOND
    due = time.monotonic() + interval * number / CONVERSATIONS
    while not stopping.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(due + interval, time.monotonic())
        messages.append(await _until_accepted(client, load, f"/api/conversations/{name}/messages", persona))


async def _until_accepted(client: aiohttp.ClientSession, load: Load, url: str, persona: str) -> Accepted:
    """Send one message, again under the same key for as long as its outcome is unknown."""
    began, tries = time.monotonic(), 0
    headers, body = {"idempotency-key": str(uuid4())}, {"personaId": persona, "message": "How are you?"}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            tries += 1
            try:
                async with client.post(url, json=body, headers=headers) as response:
                    status, answer = response.status, await response.json(content_type=None)
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                load.refusals[type(error).__name__] += 1
            else:
                if status == 202:
                    return Accepted(answer["sessionId"], time.monotonic() - began, tries)
                assert status in {409, 503}, answer
                load.refusals[f"{status} {answer['code']}"] += 1
            await asyncio.sleep(0.5)
