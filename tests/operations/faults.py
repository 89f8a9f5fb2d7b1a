"""What each alert warns of, caused and cured. A fault holds while its block runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.contracts.topics import MESSAGES
from services.database.partitions import months_ahead, partition_name
from services.local.processes import free_port
from services.runtime.ops import http_server
from tests.certificates import Authority
from tests.freezing import freeze, thaw
from tests.integration.kafka_log import Sent, send
from tests.operations.system import System

INTERVAL_HOURS = "0.006"
"""Between two sweeps: 21.6 s."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, by what was done, and the alerts that it is to raise."""

    what: str
    alerts: tuple[str, ...]
    hold: Callable[[System], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def repeating(action: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[None]:
    """Do something again and again while the block runs."""

    async def repeat() -> None:
        while True:
            await action()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def slow_replies(system: System) -> AsyncIterator[None]:
    async with repeating(lambda: system.send("slow"), 0.4):
        yield


@asynccontextmanager
async def unreachable_webhook(system: System) -> AsyncIterator[None]:
    echo = (await system.admin.get("/api/personas/echo")).json()
    told = {"maxAttempts": 1, "deadlineSeconds": 5, "timeoutSeconds": 2}
    nowhere = f"http://127.0.0.1:{free_port()}/webhook/down"
    answer = await system.admin.put("/api/personas/down", json={"webhookUrl": nowhere, **told})
    assert answer.is_success, answer.text
    async with repeating(lambda: system.send("down"), 0.4):
        yield
    answer = await system.admin.put("/api/personas/down", json={"webhookUrl": echo["webhookUrl"], **told})
    assert answer.is_success, answer.text


@asynccontextmanager
async def unusable_record(system: System) -> AsyncIterator[None]:
    unusable = Sent(b"{", key=b"c", headers=[("ce_type", b"chat.MessageSent.v1")])
    await send(system.stack.settings["KAFKA_BOOTSTRAP_SERVERS"], MESSAGES.name, [unusable])
    yield


@asynccontextmanager
async def frozen_sweeper(system: System) -> AsyncIterator[None]:
    pid = system.pid("sweeper")
    freeze(pid)
    try:
        yield
    finally:
        thaw(pid)


@asynccontextmanager
async def frozen_broker(system: System) -> AsyncIterator[None]:
    pid = system.pid("broker")
    freeze(pid)
    try:
        yield
    finally:
        thaw(pid)


@asynccontextmanager
async def wrong_counts(system: System) -> AsyncIterator[None]:
    async with system.database() as rows:
        await rows.execute("UPDATE session_rollups SET completed = completed + 3 WHERE granularity = 'hour'")
        await rows.execute("DELETE FROM rollup_checks")  # the newest hour is looked at next
    yield


@asynccontextmanager
async def dropped_partitions(system: System) -> AsyncIterator[None]:
    _, following, *_ = months_ahead(datetime.now(UTC))
    async with system.database() as rows:
        await rows.execute(f"DROP TABLE {partition_name('session_events', following)}")
    yield
    psutil.Process(system.pid("tracker")).terminate()  # `up` starts it anew


@asynccontextmanager
async def locked_progress(system: System) -> AsyncIterator[None]:
    async with system.database() as rows, rows.transaction():
        await rows.execute("LOCK TABLE fold_progress IN ACCESS EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def ending_certificate(system: System) -> AsyncIterator[None]:
    authority = Authority(system.directory, "authority")
    certificate, key = authority.sign("client", lasts=timedelta(days=3))
    settings = {
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CERTFILE": str(certificate),
        "KAFKA_SSL_KEYFILE": str(key),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "CHAT_SESSION_CLEANUP_INTERVAL": INTERVAL_HOURS,
    }
    port = free_port()
    with system.process("sweeper", port, **settings):
        yield
    authority.sign("client", lasts=timedelta(days=90))
    with system.process("sweeper", port, **settings):
        await asyncio.sleep(10)  # long enough to be scraped: the alert must end, not only its process


@asynccontextmanager
async def provider_away(system: System) -> AsyncIterator[None]:
    away = True

    async def keys(_: Request) -> Response:
        return Response("away", 500) if away else JSONResponse({"keys": []})

    server = http_server(Starlette(routes=[Route("/keys", keys)]), "127.0.0.1", keys_port := free_port())
    serving = asyncio.create_task(server.serve())
    settings = {name: value for name, value in system.stack.settings.items() if name != "JWT_SECRET"}
    settings |= {"JWT_ISSUER": "provider", "JWT_AUDIENCE": "chat-sessions"}
    port = free_port()
    token = jwt.encode({"sub": "ada"}, "k" * 32, headers={"kid": "k"})

    async def ask() -> None:
        with contextlib.suppress(Exception):
            await system.user.get(
                f"http://127.0.0.1:{port}/api/chat-sessions", headers={"authorization": f"Bearer {token}"}
            )

    with system.process("gateway", port, **settings, JWT_JWKS_URL=f"http://127.0.0.1:{keys_port}/keys"):
        async with repeating(ask, 1):
            yield
            away = False
            while "SigningKeysAway" in await system.prometheus.firing():
                await asyncio.sleep(0.5)
    server.should_exit = True
    await serving


ASIDE = (
    Fault("a record of chat.messages.v1 that is no JSON", ("DeadLetters",), unusable_record),
    Fault("the sweeper stands still", ("NoProcess", "ProcessDown", "SweepOverdue"), frozen_sweeper),
    Fault("rollups changed by hand", ("RollupDrift",), wrong_counts),
    Fault("next month's partition of events dropped", ("PartitionsRunOut",), dropped_partitions),
    Fault("a client's certificate that ends in 3 days", ("CertificateEnds",), ending_certificate),
    Fault("the identity provider answers 500", ("SigningKeysAway",), provider_away),
)
"""Faults that do not disturb one another."""

BUDGETS = (
    Fault("all replies take 3 s (limit 2.5 s)", ("ResponseTimeBurnsFast", "ResponseTimeBurnsSlowly"), slow_replies),
    Fault(
        "a persona's webhook that nobody listens on",
        ("SuccessRateBurnsFast", "SuccessRateBurnsSlowly", "BreakerOpen"),
        unreachable_webhook,
    ),
)
"""Faults that burn budgets: what goes well afterwards makes up for them."""

ONE_BY_ONE = (
    Fault("a lock on fold_progress", ("NoFoldProgress", "ConsumerLags"), locked_progress),
    Fault("the broker stands still", ("KafkaSilent",), frozen_broker),
)
