"""What each alert warns of, caused and cured. A fault holds while its block runs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import jwt
import psutil
import pytest
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
from tests.integration.tracker_process import connected
from tests.integration.webhook_server import Call, echo
from tests.operations.runbook import CommandFailed
from tests.operations.system import System

INTERVAL_HOURS = "0.006"
"""Between two sweeps: 21.6 s."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, by what was done. Its block ends with what the runbook says."""

    what: str
    told: Mapping[str, tuple[str, str]]
    """The alerts that it is to raise, each with doctor's finding of its cause and words of it."""
    hold: Callable[[System], AbstractAsyncContextManager[None]]
    outside: str = ""
    """What ends it beside commands."""


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
async def late_replies(system: System) -> AsyncIterator[None]:
    async def late(call: Call) -> bytes:
        if call.path.endswith("/late"):
            await asyncio.sleep(11)
        return await echo(call)

    system.webhook.answer = late
    await system.set_persona("late", system.webhook.url("late"), timeoutSeconds=20)
    async with repeating(lambda: system.send("late"), 0.5):
        yield
    system.webhook.answer = echo


@asynccontextmanager
async def unreachable_webhook(system: System) -> AsyncIterator[None]:
    began = datetime.now(UTC)
    nowhere = f"http://127.0.0.1:{free_port()}/webhook/down"
    await system.set_persona("down", nowhere, maxAttempts=1, deadlineSeconds=5, timeoutSeconds=2)
    async with repeating(lambda: system.send("down"), 0.4):
        yield
        shell = partial(system.runbook.shell, "SuccessRateBurnsFast")
        session = json.loads(await shell("status=FAILED"))["items"][0]["sessionId"]
        assert "check that n8n runs" in await shell("doctor", SESSION=session)
    shell = partial(system.runbook.shell, "BreakerOpen")
    await shell("persona pause", PERSONA="down")
    assert nowhere in await shell("persona get", PERSONA="down")
    await shell("persona set", PERSONA="down", URL=system.webhook.url("down"))
    await shell("persona resume", PERSONA="down")
    while True:
        with contextlib.suppress(CommandFailed):  # dispatchers do not know of it yet
            assert "You said" in await shell("chat-sessions send", PERSONA="down")
            break
    await system.runbook.shell("SuccessRateBurnsFast", "/bulk", PERSONA="down", FROM=f"{began:%FT%TZ}")


@asynccontextmanager
async def unusable_record(system: System) -> AsyncIterator[None]:
    unusable = Sent(b"{", key=b"c", headers=[("ce_type", b"chat.MessageSent.v1")])
    await send(system.stack.settings["KAFKA_BOOTSTRAP_SERVERS"], MESSAGES.name, [unusable])
    yield
    shell = partial(system.runbook.shell, "DeadLetters")
    letter = (await shell("list")).split()[0]
    assert "malformed" in await shell("show", ID=letter)
    await shell("replay")
    while "failed again after a replay" not in await shell("list"):
        await asyncio.sleep(0.5)
    await shell("drop", WHY="it is no JSON")


@asynccontextmanager
async def frozen_sweeper(system: System) -> AsyncIterator[None]:
    pid = system.pid("sweeper")
    freeze(pid)
    try:
        yield
        assert await system.runbook.sql("SweepOverdue", "FROM sweeps")
        await system.runbook.shell("SweepOverdue", "/cleanup")
        await system.runbook.shell("NoProcess", "kill", PID=str(pid))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            thaw(pid)


@asynccontextmanager
async def frozen_broker(system: System) -> AsyncIterator[None]:
    pid = system.pid("broker")
    freeze(pid)
    try:
        async with repeating(lambda: system.send("echo"), 0.5):  # each is refused after 5 s
            yield
    finally:
        thaw(pid)


@asynccontextmanager
async def wrong_counts(system: System) -> AsyncIterator[None]:
    async with connected(system.stack.settings["DATABASE_URL"]) as rows:
        await rows.execute("UPDATE session_rollups SET completed = completed + 3 WHERE granularity = 'hour'")
        await rows.execute("DELETE FROM rollup_checks")  # the newest hour is looked at next
    yield
    assert await system.runbook.sql("RollupDrift", "rollups.repair")


@asynccontextmanager
async def dropped_partitions(system: System) -> AsyncIterator[None]:
    _, following, *_ = months_ahead(datetime.now(UTC))
    async with connected(system.stack.settings["DATABASE_URL"]) as rows:
        await rows.execute(f"DROP TABLE {partition_name('session_events', following)}")
    yield
    await system.runbook.shell("PartitionsRunOut", "kill", PID=str(system.pid("tracker")))


@asynccontextmanager
async def locked_progress(system: System) -> AsyncIterator[None]:
    async with connected(system.stack.settings["DATABASE_URL"]) as rows:
        await rows.execute("BEGIN")
        await rows.execute("LOCK TABLE fold_progress IN ACCESS EXCLUSIVE MODE")
        yield
        seen = await system.runbook.sql("NoFoldProgress", "pg_stat_activity")
        (pid,) = [row["pid"] for row in seen if "LOCK TABLE" in row["query"]]
        await system.runbook.sql("NoFoldProgress", "pg_terminate_backend", PID=str(pid))


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
        assert "notAfter" in await system.runbook.shell("CertificateEnds", "openssl", FILE=str(certificate))
    authority.sign("client", lasts=timedelta(days=90))
    with system.process("sweeper", port, **settings):
        await asyncio.sleep(10)  # long enough to be scraped: the alert must end, not only its process


@asynccontextmanager
async def provider_away(system: System) -> AsyncIterator[None]:
    away = True

    async def keys(_: Request) -> Response:
        return Response("away", 500) if away else JSONResponse({"keys": []})

    port, keys_port = free_port(), free_port()
    url = f"http://127.0.0.1:{keys_port}/keys"
    server = http_server(Starlette(routes=[Route("/keys", keys)]), "127.0.0.1", keys_port)
    serving = asyncio.create_task(server.serve())
    settings = {name: value for name, value in system.stack.settings.items() if name != "JWT_SECRET"}
    settings |= {"JWT_ISSUER": "provider", "JWT_AUDIENCE": "chat-sessions", "JWT_JWKS_URL": url}
    token = jwt.encode({"sub": "ada"}, "k" * 32, headers={"kid": "k"})

    async def ask() -> None:
        with contextlib.suppress(Exception):
            await system.user.get(
                f"http://127.0.0.1:{port}/api/chat-sessions", headers={"authorization": f"Bearer {token}"}
            )

    fetch = partial(system.runbook.shell, "SigningKeysAway", "curl", JWT_JWKS_URL=url)
    try:
        with system.process("gateway", port, **settings):
            async with repeating(ask, 1):
                yield
                with pytest.raises(CommandFailed, match="500"):
                    await fetch()
                away = False
                assert "keys" in await fetch()
                while "SigningKeysAway" in await system.prometheus.firing():
                    await asyncio.sleep(0.5)
    finally:
        server.should_exit = True
        await serving


_DOWN = ("processes.sweeper", "it hangs")
_LATE = ("sessions.response", "time went by in its webhook")
_FAILS = ("sessions.success", "down")
_LOCKED = ("postgres.locks", "last LOCK TABLE fold_progress")

ASIDE = (
    Fault(
        "a record of chat.messages.v1 that is no JSON", {"DeadLetters": ("dead-letters", "malformed")}, unusable_record
    ),
    Fault(
        "the sweeper stands still",
        {"NoProcess": _DOWN, "ProcessDown": _DOWN, "SweepOverdue": ("postgres.sweeps", "the last scheduled sweep was")},
        frozen_sweeper,
    ),
    Fault(
        "rollups changed by hand",
        {"RollupDrift": ("postgres.rollups", "statistics were wrong by")},
        wrong_counts,
        "the upkeep has repaired them",
    ),
    Fault(
        "next month's partition of events dropped",
        {"PartitionsRunOut": ("postgres.partitions", "missing")},
        dropped_partitions,
    ),
    Fault(
        "a client's certificate that ends in 3 days",
        {"CertificateEnds": ("certificates.sweeper-beside", "KAFKA_SSL_CERTFILE ends in 3 days")},
        ending_certificate,
        "another certificate, and the process started anew",
    ),
    Fault(
        "the identity provider answers 500",
        {"SigningKeysAway": ("signing-keys.gateway-beside", "JWT_JWKS_URL")},
        provider_away,
        "the identity provider is back",
    ),
)
"""Faults that do not disturb one another."""

BUDGETS = (
    Fault(
        "a webhook that takes 11 s",
        {"ResponseTimeBurnsFast": _LATE, "ResponseTimeBurnsSlowly": _LATE},
        late_replies,
        "the webhook is quick again",
    ),
    Fault(
        "a persona's webhook that nobody listens on",
        {
            "SuccessRateBurnsFast": _FAILS,
            "SuccessRateBurnsSlowly": _FAILS,
            "BreakerOpen": ("personas.down.breaker", "holds its calls back"),
        },
        unreachable_webhook,
    ),
)
"""Faults that burn budgets: what goes well afterwards makes up for them."""

ONE_BY_ONE = (
    Fault("a lock on fold_progress", {"NoFoldProgress": _LOCKED, "ConsumerLags": _LOCKED}, locked_progress),
    Fault(
        "the broker stands still",
        {"KafkaSilent": ("kafka", "did not answer")},
        frozen_broker,
        "the broker goes on",
    ),
)
