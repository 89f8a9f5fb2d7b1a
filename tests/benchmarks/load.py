"""The load generator, a process of its own: sends messages over HTTP or reads their sessions back, prints JSON.

Bounded in count and time. Sending and reading are runs of their own, so that neither disturbs the other.
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
ENDINGS = {"WebhookSucceeded", "WebhookFailed", "CancelRequested", "TimeoutSweep"}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=["direct", "send", "read"])
    parser.add_argument("--url", required=True, help="of the gateway; of the webhook to call directly")
    parser.add_argument("--token", default="")
    parser.add_argument("--messages", type=int, default=0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="limit of the whole run")
    options = parser.parse_args()
    phase = {"direct": call_webhook, "send": send_messages, "read": read_sessions}[options.phase]
    async with asyncio.timeout(options.seconds), ClientBuilder().no_proxy().build() as client:
        sys.stdout.write(orjson.dumps(await phase(client, options)).decode())


async def call_webhook(client: Client, options: argparse.Namespace) -> dict[str, float]:
    """Call a webhook itself, without the system, as often and with as many connections."""

    async def call(number: int) -> None:
        body = orjson.dumps({"message": f"message {number}", "sessionId": f"direct-{number}"})
        response = await client.post(options.url).body_bytes(body).build().send()
        await response.bytes()

    began = time.perf_counter()
    await spread(call, options.messages, options.connections)
    return {"seconds": time.perf_counter() - began}


async def send_messages(client: Client, options: argparse.Namespace) -> dict[str, object]:
    """Send every message; tell when each session was accepted, in Unix seconds."""
    run = int(time.time() * 1000)
    accepted: dict[str, float] = {}
    refused: list[str] = []

    async def send(number: int) -> None:
        url = f"{options.url}/api/conversations/bench-{run}-{number % CONVERSATIONS}/messages"
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
    return {"began": wall, "seconds": time.perf_counter() - began, "accepted": accepted, "refused": refused[:5]}


async def read_sessions(client: Client, options: argparse.Namespace) -> dict[str, object]:
    """Read back, until it has ended, every session that send_messages() told of; its output is the input."""
    sent = orjson.loads(sys.stdin.buffer.read())
    accepted: dict[str, float] = sent["accepted"]
    began = time.perf_counter()
    sessions = await read_back(client, options, list(accepted))
    seconds = time.perf_counter() - began
    ended = [datetime.fromisoformat(s["endedAt"]).timestamp() for s in sessions if s.get("endedAt")]
    delays = sorted(
        max(0.0, datetime.fromisoformat(s["endedAt"]).timestamp() - accepted[s["sessionId"]]) * 1000
        for s in sessions
        if s["status"] == "COMPLETED"
    )
    return {
        "read_seconds": seconds,
        "all_ended_seconds": max(ended, default=sent["began"]) - sent["began"],
        "completed": len(delays),
        "lost": len(accepted) - len(delays),
        "double_ended": sum(sum(e["type"] in ENDINGS for e in s["timeline"]) > 1 for s in sessions),
        "p50_ms": quantile(delays, 0.5),
        "p95_ms": quantile(delays, 0.95),
        "p99_ms": quantile(delays, 0.99),
    }


async def read_back(client: Client, options: argparse.Namespace, ids: list[str]) -> list[dict]:
    sessions: list[dict] = []

    async def read(number: int) -> None:
        url = f"{options.url}/api/chat-sessions/{ids[number]}?wait=60"
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
