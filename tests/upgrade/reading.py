"""Somebody who reads all the time, from whichever gateway, whatever either release wrote."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import aiohttp

from tests.cluster.load import Gateways, Load

EVERY_SECONDS = 0.1
RETRYABLE = {503}


@asynccontextmanager
async def steady_reads(gateways: Gateways, token: str, load: Load) -> AsyncIterator[Counter[str]]:
    """Read lists, statistics and sessions while the block runs; gives how often each was answered how."""
    answers: Counter[str] = Counter()
    async with aiohttp.ClientSession(
        headers={"authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=15)
    ) as client:

        async def go_on() -> None:
            for number in count():
                urls, (kind, path) = gateways(), _request(number, load)
                await asyncio.gather(
                    asyncio.sleep(EVERY_SECONDS), _read(client, answers, kind, urls[number // 4 % len(urls)] + path)
                )

        task = asyncio.create_task(go_on())
        try:
            yield answers
        finally:
            task.cancel()
            (end,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(end, asyncio.CancelledError):
                raise end


def _request(number: int, load: Load) -> tuple[str, str]:
    name, messages = max(load.conversations.items(), key=lambda item: item[1][-1].session_id if item[1] else "")
    newest = messages[-1].session_id if messages else None
    requests = [
        ("list", "/api/chat-sessions?limit=20&sort=-startedAt"),
        ("stats", "/api/chat-sessions/stats"),
        ("conversation", f"/api/conversations/{name}/chat-sessions"),
        ("session", f"/api/chat-sessions/{newest}?wait=5" if newest else "/api/chat-sessions?limit=1"),
    ]
    return requests[number % len(requests)]


async def _read(client: aiohttp.ClientSession, answers: Counter[str], kind: str, url: str) -> None:
    try:
        async with client.get(url) as response:
            answer = await response.json(content_type=None)
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        answers[f"{kind}: {type(error).__name__}"] += 1
    else:
        told = "" if response.status == 200 else f" {answer['code']}"
        answers[f"{kind}: {response.status}{told}"] += 1
        assert response.status == 200 or response.status in RETRYABLE, answer
