"""What `up` asks of its services over HTTP: whether they are ready or behind."""

import re
import time
from collections.abc import Iterable, Sequence

import httpx

from services.local.supervisor import Program

_MEASURED_SECONDS = 1.3
_LAG = re.compile(r"^chat_consumer_lag_records\{[^}]*\} (\S+)$", re.MULTILINE)


class NotReadyError(Exception):
    """The system did not become ready; the message says what is missing."""


def what_is_not_ready(client: httpx.Client, programs: Iterable[Program]) -> dict[str, str]:
    """The names of the programs that are not ready, each with what it says is missing."""
    problems = {program.name: _problem(client, program) for program in programs}
    return {name: problem for name, problem in problems.items() if problem is not None}


def why_silent(url: str) -> str | None:
    """The kind of failure where nobody answers at `url` within 2 s; None where somebody does, whatever they say."""
    try:
        httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError as error:
        return type(error).__name__
    return None


def wait_until_folded(trackers: Sequence[Program], seconds: float) -> None:
    """Return when the trackers say that they are not behind, at the latest after `seconds`.

    They measure once a second, so only what they say after that counts.
    """
    give_up = time.monotonic() + seconds
    time.sleep(min(seconds, _MEASURED_SECONDS))
    with httpx.Client(timeout=1, trust_env=False) as client:
        while any(_lags(client, tracker) for tracker in trackers) and time.monotonic() < give_up:
            time.sleep(0.1)


def _lags(client: httpx.Client, tracker: Program) -> bool:
    try:
        metrics = client.get(f"{tracker.ops_url}/metrics").text
    except httpx.HTTPError:
        return False
    return any(float(lag) > 0 for lag in _LAG.findall(metrics))


def _problem(client: httpx.Client, program: Program) -> str | None:
    try:
        answer = client.get(f"{program.ops_url}/health/ready")
    except httpx.HTTPError as error:
        return type(error).__name__
    return None if answer.status_code == 200 else answer.text[:500]
