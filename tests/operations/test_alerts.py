"""Each alert fires for its fault and ends with it, and every panel shows something, on the running system."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.local_stack import NO_LIMITS, start_up
from tests.metrics_list import declared
from tests.monitoring import ALERTS, RULE_TESTS, alerts, dashboard_queries
from tests.operations.faults import ASIDE, BUDGETS, INTERVAL_HOURS, ONE_BY_ONE, Fault, repeating
from tests.operations.prometheus import running_prometheus, sped_up, until_ready
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

SILENT = {"Server errors by route", "How late watchers are told"}
"""Panels that may have nothing to show: what they count does not come of these faults for certain."""


def test_the_rules_are_well_formed_and_tested() -> None:
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", *map(str, RULE_TESTS)]):
        checked = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    environment = {**NO_LIMITS, "CHAT_SESSION_CLEANUP_INTERVAL": INTERVAL_HOURS}
    up = start_up(tmp_path / "stack", environment=environment)
    stack = up.stack()
    try:
        with running_prometheus(tmp_path, sped_up(ALERTS.read_text())) as prometheus:
            await until_ready(prometheus)
            async with _client(stack, "adminToken") as admin, _client(stack, "userToken") as user:
                yield System(up, prometheus, admin, user, tmp_path)
    finally:
        assert up.stop() == 0


def _client(stack: dict[str, str], token: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {stack[token]}"}
    return httpx.AsyncClient(base_url=stack["gatewayUrl"], headers=headers, trust_env=False, timeout=30)


@pytest.mark.timeout(900)
async def test_every_alert_fires_for_its_fault_and_every_panel_shows_something(system: System) -> None:
    began = time.time()
    system.scrape()
    async with system.user.stream("GET", "/api/chat-sessions/live") as watched:
        assert watched.status_code == 200
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
    _print_table(("alert", "fault", "fired after s", "over after s"), told)
    assert {row[0] for row in told} == {alert["alert"] for alert in alerts()}
    assert all(float(row[2]) >= 0 and float(row[3]) >= 0 for row in told)
    await _check_panels(system, began)


async def _cause(
    system: System, faults: Sequence[Fault], afterwards: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
) -> list[tuple[str, str, str, str]]:
    """Cause the faults until their alerts fire, end them, and wait until they do not. Return a row for each alert."""
    names = [name for fault in faults for name in fault.alerts]
    await _until(system, names, False, time.monotonic())  # a fault before this one may have raised them, too
    began = time.monotonic()
    async with AsyncExitStack() as held:
        for fault in faults:
            await held.enter_async_context(fault.hold(system))
        fired = await _until(system, names, True, began)
        ended = time.monotonic()
    async with afterwards():
        over = await _until(system, names, False, ended)
    return [(name, fault.what, f"{fired[name]:.0f}", f"{over[name]:.0f}") for fault in faults for name in fault.alerts]


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
    assert {panel for (_, panel), found in shown.items() if not found} <= SILENT


def _print_table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    print(f"\n| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
