"""Requests of one kind over so many connections, a process of its own: prints requests/s and latencies, as JSON."""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import orjson
import uvloop
from pyreqwest.client import Client, ClientBuilder

from tests.benchmarks.load import CONVERSATIONS, quantile, spread

MESSAGE = "How do I get from the station to the old town, and is it open on Sundays?"

Call = Callable[[int], Awaitable[int]]
"""Makes the request of this number; returns the status of its answer."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["message", "read"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--paths", default="", help="of a read: a file of paths, one a line, asked for at random")
    parser.add_argument("--token", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    async with asyncio.timeout(100), ClientBuilder().no_proxy().build() as client:
        call = messages(client, options) if options.kind == "message" else reads(client, options)
        sys.stdout.write(orjson.dumps(await timed(call, options)).decode())


def messages(client: Client, options: argparse.Namespace) -> Call:
    """Messages, each with an Idempotency-Key of its own, round the conversations."""
    body = orjson.dumps({"personaId": "bench", "message": MESSAGE})

    async def call(number: int) -> int:
        url = f"{options.url}/api/conversations/bench-{number % CONVERSATIONS}/messages"
        request = client.post(url).bearer_auth(options.token).header("content-type", "application/json")
        request = request.header("idempotency-key", str(uuid.uuid4())).header("user-agent", "bench")
        response = await request.body_bytes(body).build().send()
        await response.bytes()
        return response.status

    return call


def reads(client: Client, options: argparse.Namespace) -> Call:
    """GETs."""
    with open(options.paths) as file:
        paths = file.read().split()
    chance = random.Random(1)

    async def call(_: int) -> int:
        response = await client.get(options.url + chance.choice(paths)).bearer_auth(options.token).build().send()
        await response.bytes()
        return response.status

    return call


async def timed(call: Call, options: argparse.Namespace) -> dict[str, object]:
    took: list[float] = []
    refused: list[int] = []

    async def one(number: int) -> None:
        began = time.perf_counter()
        status = await call(number)
        took.append((time.perf_counter() - began) * 1000)
        if status not in {200, 202}:
            refused.append(status)

    began = time.perf_counter()
    await spread(one, options.requests, options.connections)
    seconds = time.perf_counter() - began
    took.sort()
    return {
        "per_second": options.requests / seconds,
        "p50_ms": quantile(took, 0.5),
        "p99_ms": quantile(took, 0.99),
        "refused": refused[:5],
    }


if __name__ == "__main__":
    uvloop.run(main())
