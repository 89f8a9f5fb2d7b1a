"""Each alert fires for its fault, of which doctor names the cause and the runbook's commands end it; every panel shows
something. On the running system.
"""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.local.data_directory import read_stack
from tests.e2e.local_stack import NO_LIMITS, start_up
from tests.integration.webhook_server import webhook_server
from tests.metrics_list import declared
from tests.monitoring import ALERTS, RULE_TESTS, alerts, dashboard_queries
from tests.operations.faults import ASIDE, BUDGETS, INTERVAL_HOURS, ONE_BY_ONE, Fault, repeating
from tests.operations.prometheus import running_prometheus, sped_up, until_ready
from tests.operations.runbook import COMMANDS, TOKEN, Runbook
from tests.operations.system import System

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)

SECONDS = 150
"""How long an alert may take to fire, and to end."""

SETTLES_SECONDS = 15
"""How long a start goes on to be seen: gauges that only PostgreSQL tells, the first sweep."""

PERSONAS = ("down", "flaky", "echo")
"""For whom the panels of one persona are asked for."""

_SIGNED = f'-H "Authorization: Bearer ${TOKEN}" '


def test_the_rules_are_well_formed_and_tested() -> None:
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", *map(str, RULE_TESTS)]):
        checked = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
async def system(tmp_path: Path, session_directory: Path) -> AsyncIterator[System]:
    environment = {**NO_LIMITS, "CHAT_SESSION_CLEANUP_INTERVAL": INTERVAL_HOURS}
    up = start_up(session_directory / "stack", environment=environment)
    stack = up.stack()
    url = stack["gatewayUrl"]
    try:
        with running_prometheus(tmp_path, sped_up(ALERTS.read_text())) as prometheus:
            await until_ready(prometheus)
            runbook = Runbook({**environment, **read_stack(up.data_directory).settings, "CHAT_SESSIONS_URL": url})
            await runbook.sign_in()
            async with (
                _client(stack, "adminToken") as admin,
                _client(stack, "userToken") as user,
                webhook_server() as webhook,
            ):
                yield System(up, prometheus, runbook, webhook, admin, user, tmp_path)
    finally:
        assert up.stop() == 0


def _client(stack: dict[str, str], token: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {stack[token]}"}
    return httpx.AsyncClient(base_url=stack["gatewayUrl"], headers=headers, trust_env=False, timeout=30)


@pytest.mark.timeout(900)
async def test_every_alert_fires_and_is_explained_and_ended_and_every_panel_shows_something(system: System) -> None:
    began = time.time()
    system.scrape()
    async with system.user.stream("GET", "/api/chat-sessions/live") as watched:
        assert watched.status_code == 200
        # What has happened before the first scrape is no rate.
        await system.prometheus.until("sum(chat_live_streams) > 0")
        for persona in ("echo", "flaky", "slow"):
            await system.send(persona, messages=5)
        await asyncio.sleep(SETTLES_SECONDS)
    assert await system.prometheus.firing() == set(), "alerts fire without a fault"
    await _check_declarations(system)
    # A group: where one fails, the others are ended in order, and leave no process behind.
    async with asyncio.TaskGroup() as group:
        aside = [group.create_task(_cause(system, [fault])) for fault in ASIDE]
    told = [row for task in aside for row in task.result()]
    told += await _cause(system, BUDGETS, lambda: repeating(lambda: system.send("echo", messages=40), 0.5))
    for fault in ONE_BY_ONE:
        told += await _cause(system, [fault], lambda: repeating(lambda: system.send("echo", messages=10), 0.5))
    _print_table(("alert", "fault caused", "fired after s", "doctor said", "what ended it", "over after s"), told)
    assert {row[0] for row in told} == {alert["alert"] for alert in alerts()}
    assert {*COMMANDS} == {*system.runbook.tried}, "the runbook has commands that are not tried"
    await _check_panels(system, began)


async def _cause(
    system: System, faults: Sequence[Fault], afterwards: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
) -> list[tuple[str, ...]]:
    """Cause the faults until their alerts fire, end them, and wait until they do not. Return a row for each alert."""
    told = {alert: expected for fault in faults for alert, expected in fault.told.items()}
    await _until(system, told, False, time.monotonic())  # a fault before this one may have raised them, too
    began = time.monotonic()
    async with AsyncExitStack() as held:
        for fault in faults:
            await held.enter_async_context(fault.hold(system))
        fired = await _until(system, told, True, began)
        findings = await system.doctor()
        said = {alert: _said(findings, *expected) for alert, expected in told.items()}
        ended = time.monotonic()
    async with afterwards():
        over = await _until(system, told, False, ended)
    return [
        (alert, fault.what, f"{fired[alert]:.0f}", said[alert], _what_ended(system, fault), f"{over[alert]:.0f}")
        for fault in faults
        for alert in fault.told
    ]


def _said(findings: Mapping[str, Mapping[str, Any]], check: str, words: str) -> str:
    """Return what doctor said of a fault; it must have these words, and a next step."""
    finding = findings.get(check)
    assert finding is not None, f"doctor does not say {check}: {findings}"
    assert finding["level"] != "well", finding
    assert words in finding["told"], finding
    assert finding["next"], finding
    return f"{check}: {finding['told']}"


def _what_ended(system: System, fault: Fault) -> str:
    """Return what was done to end a fault, the runbook's commands as they stand there."""
    commands = [command for command in system.runbook.tried if command.alert in fault.told and command.ends_it]
    texts = [f"`{command.text.replace(_SIGNED, '')}`" for command in dict.fromkeys(commands)]
    return "; ".join([*([fault.outside] if fault.outside else []), *texts])


async def _until(system: System, names: Iterable[str], firing: bool, since: float) -> dict[str, float]:
    """Return for each alert after how many seconds it fired, or did not any more."""
    found: dict[str, float] = {}
    waiting = set(names)
    while waiting:
        now = await system.prometheus.firing()
        for name in [name for name in waiting if (name in now) is firing]:
            found[name] = time.monotonic() - since
            waiting.remove(name)
        what = "do not fire" if firing else "do not end"
        assert time.monotonic() - since < SECONDS, f"{waiting} {what}; {now} fire"
        await asyncio.sleep(0.5)
    return found


async def _check_declarations(system: System) -> None:
    """Every process tells what `docs/metrics.md` says of it, and nothing else."""
    for process, url in system.stack.ops_urls.items():
        families = text_string_to_metric_families((await system.user.get(f"{url}/metrics")).text)
        told = {family.name for family in families if not family.name.endswith("_created")}
        assert told == {metric.name for metric in declared() if process in metric.processes}


async def _check_panels(system: System, since: float) -> None:
    rows, shown = [], dict[tuple[str, str], int]()
    for query in dashboard_queries():
        expression = query.expression.replace("$__rate_interval", "10s")
        asked = {expression.replace("$persona", persona) for persona in PERSONAS}
        found = sum([await system.prometheus.series(one, since, time.time()) for one in asked])
        rows.append((query.board, query.panel, query.expression, str(found)))
        shown[query.board, query.panel] = shown.get((query.board, query.panel), 0) + found
    _print_table(("dashboard", "panel", "query", "series"), rows)
    assert {panel for (_, panel), found in shown.items() if not found} == set()


def _print_table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    print(f"\n| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
