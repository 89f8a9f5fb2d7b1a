"""kill -9 of dispatchers and trackers under load: every accepted message ends exactly once, and is counted once."""

import asyncio
import os
import signal
from collections import Counter
from typing import Any

import asyncpg
import httpx
import pytest

from services.database.engine import asyncpg_url
from tests.e2e.local_stack import Up
from tests.recount import assert_rollups_exact

MESSAGES = 500
CONVERSATIONS = 25
PREFIX = "crash-"
"""Of the conversations' ids: others have used the system before."""
SENDERS = 10
KILLS_AT = {"dispatcher": (60, 220), "tracker": (120, 300)}
"""Which process dies when so many messages are answered or being answered."""
SESSIONS = f"""FROM chat_sessions WHERE "conversationId" LIKE '{PREFIX}%'"""
ENDINGS = ("WebhookSucceeded", "WebhookFailed", "CancelRequested", "TimeoutSweep")


async def send_all(client: httpx.AsyncClient) -> list[str]:
    """Send every message over a few connections; return the sessions that were accepted, all of them."""
    accepted: list[str] = []
    numbers = iter(range(MESSAGES))

    async def sender() -> None:
        for number in numbers:
            url = f"/api/conversations/{PREFIX}{number % CONVERSATIONS}/messages"
            answer = await client.post(url, json={"personaId": "echo", "message": f"message {number}"})
            assert answer.status_code == 202, answer.text
            accepted.append(answer.json()["sessionId"])

    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    return accepted


async def kill_at(up: Up, n8n: httpx.AsyncClient, name: str, calls: int) -> None:
    """End the process with SIGKILL as soon as the webhooks were called so often and it runs."""
    async with asyncio.timeout(60):
        while await calls_so_far(n8n) < calls or name not in up.stack()["processes"]:
            await asyncio.sleep(0.002)
        os.kill(up.stack()["processes"][name], signal.SIGKILL)


async def calls_so_far(n8n: httpx.AsyncClient) -> int:
    return int((await n8n.get("/calls/summary")).json()["calls"])


async def all_ended(database: asyncpg.Connection) -> None:
    async with asyncio.timeout(60):
        while await database.fetchval(f"SELECT count(*) {SESSIONS} AND status <> 'ACTIVE'") < MESSAGES:
            await asyncio.sleep(0.1)


async def test_nothing_is_lost_or_ended_twice(running_up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    stack = running_up.stack()
    headers = {"authorization": f"Bearer {stack['userToken']}"}
    async with (
        httpx.AsyncClient(base_url=stack["gatewayUrl"], headers=headers, timeout=30, trust_env=False) as gateway,
        httpx.AsyncClient(base_url=stack["n8nUrl"], timeout=10, trust_env=False) as n8n,
    ):
        before = await calls_so_far(n8n)
        kills = [kill_at(running_up, n8n, name, before + calls) for name, at in KILLS_AT.items() for calls in at]
        accepted, *_ = await asyncio.gather(send_all(gateway), *kills)
        database = await asyncpg.connect(asyncpg_url(stack["databaseUrl"]))
        try:
            await all_ended(database)
            ledger = await read_ledger(database, accepted, await calls_so_far(n8n) - before)
        finally:
            await database.close()
    with capsys.disabled():
        print(f"\n{ledger}")
    assert ledger["ended once"] == ledger["accepted"] == MESSAGES
    assert ledger["COMPLETED"] == MESSAGES
    # Only calls whose result was not acknowledged when their dispatcher died are made again: at most one a
    # conversation and kill, since a conversation's messages take turns.
    assert ledger["calls beyond the first"] <= CONVERSATIONS * len(KILLS_AT["dispatcher"])
    assert ledger["late endings"] <= ledger["calls beyond the first"]
    await assert_rollups_exact(stack["databaseUrl"])


async def read_ledger(database: asyncpg.Connection, accepted: list[str], calls: int) -> dict[str, Any]:
    endings: Counter[str] = Counter()
    late = 0
    for row in await database.fetch('SELECT "sessionId", late FROM session_events WHERE type = ANY($1)', ENDINGS):
        late += row["late"]
        endings[str(row["sessionId"])] += not row["late"]
    completed = await database.fetchval(f"SELECT count(*) {SESSIONS} AND status = 'COMPLETED'")
    return {
        "accepted": len(accepted),
        "ended once": sum(endings[session] == 1 for session in accepted),
        "COMPLETED": completed,
        "late endings": late,
        "calls beyond the first": calls - len(accepted),
    }
