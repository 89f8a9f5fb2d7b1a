"""The load generator, a process of its own: sends messages over HTTP, reads every session back, prints JSON.

Bounded in count and time. Two phases so that reading does not disturb sending: first every message, then every session.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import count

import orjson
import uvloop
from pyreqwest.client import Client, ClientBuilder

CONVERSATIONS = 200


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--direct", help="a webhook to call instead, without the system, for comparison")
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="limit of the whole run")
    options = parser.parse_args()
    async with asyncio.timeout(options.seconds), ClientBuilder().no_proxy().build() as client:
        result = await (call_webhook(client, options) if options.direct else round_trip(client, options))
    sys.stdout.write(orjson.dumps(result).decode())


async def call_webhook(client: Client, options: argparse.Namespace) -> dict[str, float]:
    """Call the stub's webhook itself, as often and with as many connections."""

    async def call(number: int) -> None:
        body = orjson.dumps({"message": f"message {number}", "sessionId": f"direct-{number}"})
        response = await client.post(options.direct).body_bytes(body).build().send()
        await response.bytes()

    began = time.perf_counter()
    await spread(call, options.messages, options.connections)
    return {"seconds": time.perf_counter() - began}


async def round_trip(client: Client, options: argparse.Namespace) -> dict[str, object]:
    """Send every message; then read every session until it has ended."""
    run = int(time.time() * 1000)
    accepted: dict[str, float] = {}
    refused: list[str] = []

    async def send(number: int) -> None:
        url = f"{options.gateway}/api/conversations/bench-{run}-{number % CONVERSATIONS}/messages"
        body = orjson.dumps({"personaId": "echo", "message": f"message {number}"})
        request = client.post(url).bearer_auth(options.token).header("content-type", "application/json")
        response = await request.body_bytes(body).build().send()
        answer = bytes(await response.bytes())
        if response.status == 202:
            accepted[orjson.loads(answer)["sessionId"]] = time.time()
        else:
            refused.append(f"{response.status} {answer[:200].decode(errors='replace')}")

    began, wall = time.perf_counter(), time.time()
    await spread(send, options.messages, options.connections)
    sent = time.perf_counter() - began
    sessions = await read_back(client, options, accepted)
    ended = [datetime.fromisoformat(s["endedAt"]).timestamp() for s in sessions if s.get("endedAt")]
    endings = {"WebhookSucceeded", "WebhookFailed", "CancelRequested", "TimeoutSweep"}
    delays = sorted(
        max(0.0, datetime.fromisoformat(s["endedAt"]).timestamp() - accepted[s["sessionId"]]) * 1000
        for s in sessions
        if s["status"] == "COMPLETED"
    )
    return {
        "accepted": len(accepted),
        "refused": refused[:5],
        "send_seconds": sent,
        "all_ended_seconds": max(ended, default=wall) - wall,
        "completed": len(delays),
        "lost": len(accepted) - len(delays),
        "double_ended": sum(sum(e["type"] in endings for e in s["timeline"]) > 1 for s in sessions),
        "p50_ms": quantile(delays, 0.5),
        "p95_ms": quantile(delays, 0.95),
        "p99_ms": quantile(delays, 0.99),
    }


async def read_back(client: Client, options: argparse.Namespace, accepted: dict[str, float]) -> list[dict]:
    sessions: list[dict] = []
    ids = list(accepted)

    async def read(number: int) -> None:
        url = f"{options.gateway}/api/chat-sessions/{ids[number]}?wait=60"
        response = await client.get(url).bearer_auth(options.token).build().send()
        answer = orjson.loads(bytes(await response.bytes()))
        if response.status == 200:
            sessions.append(answer)

    await spread(read, len(ids), options.connections)
    return sessions


async def spread(work: Callable[[int], Awaitable[None]], total: int, connections: int) -> None:
    """Do the work `total` times, `connections` at once."""
    numbers = count()

    async def worker() -> None:
        while (number := next(numbers)) < total:
            await work(number)

    await asyncio.gather(*(worker() for _ in range(connections)))


def quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


if __name__ == "__main__":
    uvloop.run(main())
