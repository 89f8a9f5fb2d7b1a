"""Looks at the processes themselves: ready or why not, their clocks, and what only they can tell."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from services.commands.checkup.findings import Finding, well, wrong
from services.commands.checkup.measured import measured
from services.commands.checkup.postgres import clock
from services.commands.diagnosis.facts import Silence

_SECONDS = 5.0
_RESOLUTION_SECONDS = 1.0
"""Of the Date header."""
_NOT_READY_STEP = (
    "wait half a minute; if it is still so, mend what it names (its log says more): it recovers by itself then."
)


async def check_processes(ops_urls: Mapping[str, str], pids: Mapping[str, int]) -> list[Finding]:
    """Return what each process of `ops_urls` tells about itself."""
    async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
        found = await asyncio.gather(*(_process(client, name, url, pids.get(name)) for name, url in ops_urls.items()))
    return [finding for findings in found for finding in findings]


async def find_silent(ops_urls: Mapping[str, str], pids: Mapping[str, int]) -> list[Silence]:
    """Return those processes of `ops_urls` that nobody answers for, asked for nothing else."""

    async def ask(name: str, url: str) -> Silence | None:
        try:
            await client.get(f"{url}/health/live")
        except httpx.HTTPError as error:
            told, step = silence(url, error, pids.get(name))
            return Silence(name, told, step)
        return None

    async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
        asked = await asyncio.gather(*(ask(name, url) for name, url in ops_urls.items()))
    return [found for found in asked if found is not None]


async def _process(client: httpx.AsyncClient, name: str, url: str, pid: int | None) -> list[Finding]:
    check, before = f"processes.{name}", datetime.now(UTC)
    try:
        ready = await client.get(f"{url}/health/ready")
        after = datetime.now(UTC)
        metrics = await client.get(f"{url}/metrics")
    except httpx.HTTPError as error:
        told, step = silence(url, error, pid)
        return [wrong(check, f"{told}.", f"{step}.")]
    findings = [health(check, url, ready)]
    if "date" in ready.headers:
        theirs = parsedate_to_datetime(ready.headers["date"])
        findings.append(clock(name, theirs, before, after, _RESOLUTION_SECONDS))
    if metrics.status_code == 200:
        findings += measured(name, metrics.text, datetime.now(UTC))
    return findings


def silence(url: str, error: httpx.HTTPError, pid: int | None) -> tuple[str, str]:
    """Return why there is no answer, and what to do: a process that hangs has to be ended, one that is not there not.

    Both are clauses without a stop.
    """
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        told = f"{url} takes connections and answers nothing within {_SECONDS:.0f} s ({type(error).__name__}): it hangs"
        return told, f"end it with `kill -9 {pid or 'PID'}`, so that it is started again"
    told = f"{url} is out of reach ({type(error).__name__})"
    return told, "start it, or see in its log why it ended"


def health(check: str, url: str, ready: httpx.Response) -> Finding:
    """Return whether the process says that it is ready, and if not its own reasons."""
    if ready.status_code == 200:
        return well(check, f"{url} is ready.")
    try:
        problems = ready.json()["problems"].items()
        reasons = "; ".join(f"{part}: {why.rstrip('.')}" for part, why in problems) + "."
    except (ValueError, KeyError, TypeError, AttributeError):
        reasons = f"it answers {ready.status_code}, which is no answer of this system."
    return wrong(check, f"{url} is not ready: {reasons}", _NOT_READY_STEP)
