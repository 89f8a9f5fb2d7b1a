"""A steady load over HTTP that knows what was accepted, in which order, and how long each acceptance took."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
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
    tries: int = 0

    @property
    def accepted(self) -> list[Accepted]:
        return [message for messages in self.conversations.values() for message in messages]


Gateways = Callable[[], Sequence[str]]
"""Where requests may go now, at least one; they take turns."""


@asynccontextmanager
async def steady_load(gateways: Gateways, token: str, per_second: float = PER_SECOND) -> AsyncIterator[Load]:
    """Send so many messages while the block runs; half of the conversations have a persona of uneven speed."""
    load, stopping = Load(), asyncio.Event()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONVERSATIONS),
        headers={"authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=15),
    ) as client:
        sender = _Sender(client, load, gateways, CONVERSATIONS / per_second)
        async with asyncio.TaskGroup() as group:
            for number in range(CONVERSATIONS):
                group.create_task(sender.converse(f"load-{uuid4()}", number, stopping))
            try:
                yield load
            finally:
                stopping.set()


@dataclass(frozen=True, slots=True)
class _Sender:
    """Sends each conversation a message every `interval` seconds."""

    client: aiohttp.ClientSession
    load: Load
    gateways: Gateways
    interval: float

    async def converse(self, name: str, number: int, stopping: asyncio.Event) -> None:
        messages = self.load.conversations.setdefault(name, [])
        path, persona = f"/api/conversations/{name}/messages", "uneven" if number % 2 else "echo"
        due = time.monotonic() + self.interval * number / CONVERSATIONS
        while not stopping.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.interval, time.monotonic())
            messages.append(await self._until_accepted(path, persona))

    async def _until_accepted(self, path: str, persona: str) -> Accepted:
        """Send one message, again under the same key for as long as its outcome is unknown."""
        began, tries, load = time.monotonic(), 0, self.load
        headers, body = {"idempotency-key": str(uuid4())}, {"personaId": persona, "message": "How are you?"}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                tries += 1
                load.tries += 1
                urls = self.gateways()
                url = urls[load.tries % len(urls)] + path
                try:
                    async with self.client.post(url, json=body, headers=headers) as response:
                        status, answer = response.status, await response.json(content_type=None)
                except (aiohttp.ClientConnectionError, TimeoutError) as error:
                    load.refusals[type(error).__name__] += 1
                else:
                    if status == 202:
                        return Accepted(answer["sessionId"], time.monotonic() - began, tries)
                    assert status in {409, 503}, answer
                    load.refusals[f"{status} {answer['code']}"] += 1
                await asyncio.sleep(0.5)
