"""A bare loop of one HTTP client against a webhook: prints requests a second and CPU µs a request, as JSON."""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count

import aiohttp
import httpx
import orjson
import uvloop
from pyreqwest.client import ClientBuilder

Call = Callable[[bytes], Awaitable[object]]
HEADERS = {"content-type": "application/json"}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=["pyreqwest", "aiohttp", "httpx"])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=200)
    options = parser.parse_args()
    run = {"pyreqwest": with_pyreqwest, "aiohttp": with_aiohttp, "httpx": with_httpx}[options.client]
    async with asyncio.timeout(100):
        sys.stdout.write(orjson.dumps(await run(options)).decode())


async def with_pyreqwest(options: argparse.Namespace) -> dict[str, float]:
    async with ClientBuilder().no_proxy().build() as client:

        async def call(body: bytes) -> object:
            response = await client.post(options.url).headers(HEADERS).body_bytes(body).build().send()
            return await response.bytes()

        return await timed(call, options)


async def with_aiohttp(options: argparse.Namespace) -> dict[str, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=HEADERS) as client:

        async def call(body: bytes) -> object:
            async with client.post(options.url, data=body) as response:
                return await response.read()

        return await timed(call, options)


async def with_httpx(options: argparse.Namespace) -> dict[str, float]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False, headers=HEADERS) as client:

        async def call(body: bytes) -> object:
            return (await client.post(options.url, content=body)).content

        return await timed(call, options)


async def timed(call: Call, options: argparse.Namespace) -> dict[str, float]:
    numbers = count()

    async def caller() -> None:
        while (number := next(numbers)) < options.requests:
            await call(orjson.dumps({"message": "How do I get to the old town?", "sessionId": f"bare-{number}"}))

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(options.in_flight)))
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return {"per_second": options.requests / seconds, "cpu_us": used / options.requests * 1e6}


if __name__ == "__main__":
    uvloop.run(main())
