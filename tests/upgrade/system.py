"""Every process of the system, each of either release, replaced one at a time."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.local.processes import ChildProcess, free_port, run_to_end, start_process
from services.local.reaper import Reaper
from services.local.stack_options import service_command, service_program
from tests.cluster.watch import READY, Watch
from tests.integration.tracker_process import connected
from tests.unit.deployment import pod
from tests.upgrade.releases import Release

PROCESSES = (
    *("tracker-1", "tracker-2"),
    *("dispatcher-1", "dispatcher-2"),
    "sweeper",
    *("gateway-1", "gateway-2"),
)
"""In the order in which they are upgraded: whoever reads an event before whoever writes it."""
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Replaced:
    """One process that made room for another."""

    name: str
    release: str
    at: float
    stopping: float
    starting: float

    def __str__(self) -> str:
        return (
            f"  {self.at:5.1f} s  {self.name:<13} {self.release:<6} stopped in {self.stopping:4.1f} s,"
            f" ready {self.starting:4.1f} s after its start"
        )


@dataclass(slots=True)
class System:
    """The processes; `environment` is that of all, whatever their release."""

    environment: Mapping[str, str]
    logs: Path
    reaper: Reaper
    watch: Watch
    replaced: list[Replaced] = field(default_factory=list)
    running: dict[str, ChildProcess] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PROCESSES})

    async def migrate(self, release: Release) -> None:
        """Run the release's `chat-sessions migrate`, and say what it came to."""
        began = self.watch.now()
        await self.run(release, "migrate")
        async with connected(self.environment["DATABASE_URL"]) as rows:
            schema = await rows.fetchval("SELECT version_num FROM alembic_version")
        took = self.watch.now() - began
        print(f"  {began:5.1f} s  migrate       {release.name:<6} ended in {took:.1f} s; schema {schema}", flush=True)

    async def run(self, release: Release, command: str, *arguments: str) -> None:
        """Run a tool of the release to its end; it must succeed."""
        child = start_process(
            f"{command}-{release.name}",
            [*service_command(command), *arguments],
            environment=self._environment(release),
            log_path=self.logs / f"{command}-{release.name}.log",
            reaper=self.reaper,
        )
        await asyncio.to_thread(run_to_end, child, READY_SECONDS)

    def start(self, name: str, release: Release) -> None:
        """Start a process that does not run now; the watch tells when it is ready."""
        program = service_program(name, kind_of(name), self._environment(release), self.ports[name])
        self.running[name] = start_process(
            name,
            program.command,
            environment=program.environment,
            log_path=self.logs / f"{name}.log",
            reaper=self.reaper,
        )
        self.watch.urls[name] = program.ops_url

    async def until_ready(self, name: str, since: float) -> None:
        """Return once the process has said, after `since`, that it is ready."""

        def ready() -> bool:
            self.running[name].ensure_running()
            samples = self.watch.samples.get(name)
            return bool(samples and samples[-1].seconds > since and samples[-1].state == READY)

        await self.watch.until(ready, f"{name} is ready", READY_SECONDS)

    async def replace(self, name: str, release: Release) -> None:
        """Stop the process in order, then start the release's, and wait until it is ready, as a platform does."""
        at = self.watch.now()
        if name in self.running:
            await self.stop(name)
        stopped = self.watch.now()
        self.start(name, release)
        await self.until_ready(name, stopped)
        replaced = Replaced(name, release.name, at, stopped - at, self.watch.now() - stopped)
        self.replaced.append(replaced)
        print(replaced, flush=True)

    async def stop(self, name: str) -> None:
        """Ask the process to end; it must do so in order, before the platform would kill it."""
        child = self.running.pop(name)
        child.ensure_running()
        grace = pod(kind_of(name))["spec"]["terminationGracePeriodSeconds"]
        code = await asyncio.to_thread(child.stop, grace)
        assert code == 0, f"{name} ended with {code}:\n{child.last_lines(30)}"

    async def close(self) -> None:
        """Stop what still runs: who accepts first, who tracks last."""
        for name in reversed(PROCESSES):
            if name in self.running:
                await self.stop(name)

    def gateways(self) -> list[str]:
        """The gateways that a load balancer would use now: those that said last that they are ready."""
        names = [name for name in self.running if kind_of(name) == "gateway"]
        ready = [name for name in names if self.watch.samples[name][-1].state == READY]
        return [self.url(name) for name in ready or names]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def _environment(self, release: Release) -> dict[str, str]:
        # What is installed is found after what PYTHONPATH names; the libraries are those of this release for both.
        return {**self.environment, "PYTHONPATH": str(release.directory)}


def kind_of(name: str) -> str:
    """The command that a process runs."""
    return name.partition("-")[0]
