"""Events that go on and on, until a test has seen enough."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.contracts import encode
from services.runtime.kafka import publish_all
from tests.integration.kafka_log import producer
from tests.integration.tracker_process import SOURCE
from tests.sample_events import SessionEvents

SESSIONS_AT_ONCE = 20
MOST_SESSIONS = 10_000


class Flow:
    """How many sessions have been published, each its message and its reply."""

    def __init__(self) -> None:
        self.sessions = 0
        self._enough = asyncio.Event()
        self._publishing: asyncio.Task[None] | None = None

    def start(self, bootstrap: str) -> None:
        self._publishing = asyncio.create_task(self._publish(bootstrap))

    async def stop(self) -> None:
        """Return once everything is acknowledged; nothing follows."""
        self._enough.set()
        if self._publishing is not None:
            await asyncio.wait_for(self._publishing, 30)

    async def _publish(self, bootstrap: str) -> None:
        async with producer(bootstrap) as client:
            while not self._enough.is_set() and self.sessions < MOST_SESSIONS:
                each = [SessionEvents(conversation=f"c{n}", user=f"u{n % 3}") for n in range(SESSIONS_AT_ONCE)]
                await publish_all(client, [encode(one.sent(), source=SOURCE) for one in each])
                await publish_all(client, [encode(one.succeeded(), source=SOURCE) for one in each])
                self.sessions += len(each)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def flow_of_events(bootstrap: str) -> AsyncIterator[Flow]:
    """Publish sessions, a thousand a second at most, until the test stops it or ends."""
    flow = Flow()
    flow.start(bootstrap)
    try:
        yield flow
    finally:
        await flow.stop()
