"""The gateway as the process that it is."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from services.local.processes import free_port
from tests.integration.gateway import ADA, SECRET, make_topics, until
from tests.patience import PATIENT_SECONDS

COMMAND = (sys.executable, "-m", "services.cli", "gateway")


@asynccontextmanager
async def process(**environment: str) -> AsyncIterator[Process]:
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    started = await asyncio.create_subprocess_exec(*COMMAND, env={**own, **environment}, stderr=PIPE)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_it_serves_and_stops_in_order_on_sigterm(broker: str, postgres_url: str) -> None:
    await make_topics(broker)
    port = free_port()
    settings = {
        "JWT_SECRET": SECRET,
        "GATEWAY_PORT": str(port),
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "DATABASE_URL": postgres_url,
        "KAFKA_IDEMPOTENCE": "false",
    }
    async with process(**settings) as gateway, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

        async def look() -> httpx.Response:
            try:
                return await http.get("/health/ready")
            except httpx.TransportError:
                return httpx.Response(503)

        await until(look, lambda answer: answer.status_code == 200)
        body = {"personaId": "echo", "message": "hello"}
        waiting = asyncio.create_task(
            http.post("/api/conversations/c/messages?wait=60", headers=ADA, json=body, timeout=30)
        )
        await until(lambda: http.get("/metrics"), lambda answer: "chat_waiters 1.0" in answer.text)
        gateway.send_signal(signal.SIGTERM)
        assert (await waiting).status_code == 202
        _, said = await asyncio.wait_for(gateway.communicate(), PATIENT_SECONDS)
        assert gateway.returncode == 0, said.decode()
        assert b"Traceback" not in said


async def test_it_stops_in_order_where_kafka_was_never_there() -> None:
    port = free_port()
    settings = {
        "JWT_SECRET": SECRET,
        "GATEWAY_PORT": str(port),
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    }
    async with process(**settings) as gateway, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

        async def problem() -> str:
            try:
                return (await http.get("/health/ready")).text
            except httpx.TransportError:
                return ""

        await until(problem, lambda told: "Kafka" in told)
        gateway.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(gateway.communicate(), PATIENT_SECONDS)
        assert gateway.returncode == 0, said.decode()
        assert b"Exception ignored" not in said, said.decode()
        assert b"Traceback" not in said, said.decode()


async def test_wrong_settings_stop_the_start_with_a_line_each() -> None:
    async with process(JWT_SECRET="short-secret", GATEWAY_PORT="x") as gateway:
        _, said = await asyncio.wait_for(gateway.communicate(), PATIENT_SECONDS)
        assert gateway.returncode == 2
        assert [line.split()[0] for line in said.decode().splitlines()] == ["GATEWAY_PORT", "JWT_SECRET"]
        assert b"short-secret" not in said
