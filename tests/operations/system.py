"""The running system as the faults handle it."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from services.local.data_directory import RunningStack, read_stack
from tests.e2e.local_stack import Up
from tests.integration.webhook_server import Webhook
from tests.operations.prometheus import Prometheus
from tests.operations.runbook import Runbook


@dataclass
class System:
    """A stack, the Prometheus that watches it, who follows the runbook, an n8n, and an admin's and a user's clients."""

    up: Up
    prometheus: Prometheus
    runbook: Runbook
    webhook: Webhook
    admin: httpx.AsyncClient
    user: httpx.AsyncClient
    directory: Path
    extra: dict[str, list[str]] = field(default_factory=dict)
    """Addresses of processes beside the stack's, by job."""

    @property
    def stack(self) -> RunningStack:
        """How to speak to the stack."""
        return read_stack(self.up.data_directory)

    def pid(self, process: str) -> int:
        """The process's id, as it is now."""
        pid: int = self.up.stack()["processes"][process]
        return pid

    def scrape(self) -> None:
        """Let Prometheus scrape all that there is now."""
        jobs: dict[str, list[str]] = {}
        for name, url in self.stack.ops_urls.items():
            jobs.setdefault(name.split("-")[0], []).append(url.removeprefix("http://"))
        self.prometheus.scrape({job: jobs.get(job, []) + self.extra.get(job, []) for job in {*jobs, *self.extra}})

    async def doctor(self) -> dict[str, dict[str, Any]]:
        """Return what `chat-sessions doctor` finds of the stack and the processes beside it, by check."""
        beside = {f"{name}-beside": f"http://{at}" for name, addresses in self.extra.items() for at in addresses}
        processes = {**self.stack.ops_urls, **beside}
        named = [option for name, url in processes.items() for option in ("--process", f"{name}={url}")]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "doctor", "--json", *named),
            env={**os.environ, **self.runbook.settings},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await running.communicate()
        return {finding["check"]: finding for finding in json.loads(said)["findings"]}

    async def set_persona(self, persona: str, webhook_url: str, **options: float) -> None:
        """Make a persona, or replace it."""
        answer = await self.admin.put(f"/api/personas/{persona}", json={"webhookUrl": webhook_url, **options})
        assert answer.is_success, answer.text

    async def send(self, persona: str, *, messages: int = 1) -> None:
        """Send so many messages, each in a conversation of its own; refusals are let be."""
        with contextlib.suppress(httpx.TransportError):
            await asyncio.gather(*(self._send(persona) for _ in range(messages)))

    async def _send(self, persona: str) -> None:
        await self.user.post(
            f"/api/conversations/{uuid4()}/messages", json={"personaId": persona, "message": "How are you?"}
        )

    @contextmanager
    def process(self, command: str, port: int, **environment: str) -> Iterator[None]:
        """Run one more process, and have it scraped, while the block runs: doctor calls it `COMMAND-beside`."""
        name = f"127.0.0.1:{port}"
        ports = {"GATEWAY_PORT": str(port)} if command == "gateway" else {"OPS_PORT": str(port)}
        with (self.directory / f"{command}.log").open("ab") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", "services.cli", command],
                stdout=log,
                stderr=log,
                env={**os.environ, **ports, **environment},
            )
            self.extra.setdefault(command, []).append(name)
            self.scrape()
            try:
                yield
            finally:
                self.extra[command].remove(name)
                self.scrape()
                running.terminate()
                running.wait(30)
