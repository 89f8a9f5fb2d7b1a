"""Prometheus scrapes every process, dashboards and alerts ask only for what they tell, and each alert has its entry."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import typer.main
import yaml

from deploy.grafana.boards import document
from deploy.grafana.generate import BOARDS, DIRECTORY
from services.cli import app
from tests.monitoring import (
    ALERTS,
    DASHBOARDS,
    RULE_TESTS,
    RUNBOOK,
    alerts,
    asked,
    dashboard_queries,
    known_series,
    panels,
    rules,
    runbook_entries,
)
from tests.unit.deployment import DEPLOY, PROCESSES, default_port, load_yaml


def test_the_dashboards_are_current() -> None:
    committed = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
    generated = {f"{board.uid}.json": document(board) for board in BOARDS}
    assert committed == generated, "Run `python -m deploy.grafana.generate`."


@pytest.mark.parametrize(
    "expression", [*(query.expression for query in dashboard_queries()), *(rule["expr"] for rule in rules())]
)
def test_what_is_asked_for_exists(expression: str) -> None:
    known = known_series()
    names, labels = asked(expression)
    assert names
    assert names <= set(known), f"{names - set(known)} is no series"
    # Labels that an expression names are those of some series in it: one with `by (group)` may join two.
    assert labels <= frozenset().union(*(known[name] for name in names))


def test_what_an_expression_asks_for_is_seen() -> None:
    names, labels = asked('histogram_quantile(0.5, sum by (le, a) (rate(x_bucket{b="1"}[5m]))) / (max(y) > 0)')
    assert names == {"x_bucket", "y"}
    assert labels == {"le", "a", "b"}


def test_panels_are_told_apart_and_fed_by_the_provisioned_source() -> None:
    (source,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    for path in DASHBOARDS:
        found = list(panels(json.loads(path.read_text())))
        assert len({panel["id"] for panel in found}) == len(found)
        shown = [panel for panel in found if panel["type"] != "row"]
        assert all(panel["description"] for panel in shown)
        assert all(panel["datasource"]["uid"] == source["uid"] for panel in shown)
        assert all(target["datasource"]["uid"] == source["uid"] for panel in shown for target in panel["targets"])


def test_dashboards_and_rules_are_where_they_are_looked_for() -> None:
    (provider,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "chat-sessions.yaml")["providers"]
    services = load_yaml(DEPLOY / "compose.yaml")["services"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    (rule_file,) = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")["rule_files"]
    assert f"./prometheus/{rule_file}:/etc/prometheus/{rule_file}:ro" in services["prometheus"]["volumes"]
    assert (ALERTS.parent / rule_file).samefile(ALERTS)


def test_prometheus_scrapes_every_process() -> None:
    configured = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    scraped = {
        config["job_name"]: (lookup["names"], lookup["port"])
        for config in configured
        for lookup in config["dns_sd_configs"]
    }
    assert scraped == {command: ([command], default_port(command)) for command in PROCESSES}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_whoever_it_wakes_needs(alert: Mapping[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_every_alert_is_in_the_runbook_and_every_entry_is_an_alerts() -> None:
    entries = runbook_entries()
    assert set(entries) == {alert["alert"] for alert in alerts()}
    for entry in entries.values():
        asked_for = ("**What it means.**", "**How to see it.**", "**What to do.**", "**How to know it is over.**")
        assert [entry.count(heading) for heading in asked_for] == [1, 1, 1, 1]
    links = set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK))
    assert links <= {name.lower() for name in entries}


def test_the_runbooks_commands_and_panels_exist() -> None:
    command = typer.main.get_command(app)
    runbook = " ".join(RUNBOOK.split("\n## ", 1)[1].split())
    told = re.findall(r"`chat-sessions ([a-z-]+)(?: ([a-z-]+))?", runbook)
    assert told
    for name, second in told:
        found = command.commands[name]  # type: ignore[attr-defined]
        assert not second or second in getattr(found, "commands", {}), f"chat-sessions {name} {second}"
    every = [panel for path in DASHBOARDS for panel in panels(json.loads(path.read_text()))]
    shown = {panel["title"] for panel in every if panel["type"] != "row"}
    boards = {board.title.removeprefix("Chat sessions: ").split(" by ")[0].lower() for board in BOARDS}
    named = set(re.findall(r'"([A-Z][^"]+)"', re.sub(r"`[^`]*`", "", runbook)))
    assert {name.split(" by ")[0].lower() for name in named - shown} <= boards | {"making partitions ahead has to wait"}


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    expected: dict[str, set[bool]] = {}
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for step in test["alert_rule_test"]:
                expected.setdefault(step["alertname"], set()).add(bool(step["exp_alerts"]))
    assert expected == {alert["alert"]: {True, False} for alert in alerts()}
