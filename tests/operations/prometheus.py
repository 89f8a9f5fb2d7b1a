"""A real Prometheus that scrapes a stack every second, with the rules sped up sixty times."""

import asyncio
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from services.local.processes import free_port

FASTER = 60
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\[|offset |for: )(\d+)([smhd])\b")
_LITERALS = {
    # Gauges of PostgreSQL are read every 5 s.
    "chat_fold_progress_timestamp_seconds offset 2m": "chat_fold_progress_timestamp_seconds offset 12s",
    '{group="session-tracker"}) > 60': '{group="session-tracker"}) > 2',
    '{group!="session-tracker"}) > 600': '{group!="session-tracker"}) > 20',
    "chat_consumer_last_poll_age_seconds) > 30": "chat_consumer_last_poll_age_seconds) > 3",
}
"""Limits in seconds, which are made shorter, too; each must be there."""


def sped_up(rules: str) -> str:
    """The rules with a sixtieth of their windows and waits, and limits to match."""
    for limit, shorter in _LITERALS.items():
        assert limit in rules, f"{limit} is not in the rules any more"
        rules = rules.replace(limit, shorter)
    return _DURATION.sub(_faster, rules)


def _faster(found: re.Match[str]) -> str:
    before, number, unit = found.groups()
    seconds = int(number) * _UNITS[unit]
    return f"{before}{seconds if unit == 's' else max(2, seconds // FASTER)}s"


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str
    targets_file: Path

    def scrape(self, jobs: Mapping[str, list[str]]) -> None:
        """Scrape these from now on: addresses by job."""
        written = self.targets_file.with_suffix(".new")
        written.write_text(json.dumps([{"targets": at, "labels": {"job": job}} for job, at in jobs.items()]))
        written.replace(self.targets_file)

    async def ask(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer of its API."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = (await client.get(f"{self.url}/api/v1/{path}", params=parameters)).raise_for_status()
            return answer.json()["data"]

    async def firing(self) -> set[str]:
        """The alerts that fire now."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def until(self, condition: str) -> None:
        """Return once there is a series for which this expression holds."""
        async with asyncio.timeout(30):
            while not (await self.ask("query", query=condition))["result"]:
                await asyncio.sleep(0.2)

    async def series(self, expression: str, start: float, end: float) -> int:
        """Return how many series with any value the expression had in that time."""
        found = await self.ask("query_range", query=expression, start=start, end=end, step=2)
        return sum(any(not math.isnan(float(value)) for _, value in one["values"]) for one in found["result"])


@contextmanager
def running_prometheus(directory: Path, rules: str) -> Iterator[Prometheus]:
    """Lend a Prometheus that knows these rules, and scrapes nothing yet."""
    targets = directory / "targets.json"
    (directory / "alerts.yml").write_text(rules)
    jobs = [{"job_name": "files", "file_sd_configs": [{"files": [str(targets)]}]}]
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    (directory / "prometheus.yml").write_text(
        yaml.safe_dump({"global": every, "rule_files": ["alerts.yml"], "scrape_configs": jobs})
    )
    port = free_port()
    program = shutil.which("prometheus")
    assert program is not None
    command = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    prometheus = Prometheus(f"http://127.0.0.1:{port}", targets)
    prometheus.scrape({})
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield prometheus
        finally:
            process.terminate()
            process.wait(20)


async def until_ready(prometheus: Prometheus) -> None:
    """Return once it answers."""
    async with asyncio.timeout(20):
        while True:
            try:
                await prometheus.ask("alerts")
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
            else:
                return
