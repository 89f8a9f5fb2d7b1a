"""The dashboards, rules and runbook as their files have them, and what a PromQL expression asks for."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser
import yaml

from tests.metrics_list import SCRAPED, series
from tests.unit.deployment import DEPLOY, ROOT

DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of a dashboard."""

    board: str
    panel: str
    expression: str


def panels(dashboard: Any) -> Iterator[dict[str, Any]]:
    """Every panel of a dashboard, rows among them."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def dashboard_queries() -> list[Asked]:
    """Every query of every dashboard."""
    return [
        Asked(path.stem.removeprefix("chat-sessions-"), panel["title"], target["expr"])
        for path in DASHBOARDS
        for panel in panels(json.loads(path.read_text()))
        for target in panel.get("targets", [])
    ]


def rules(document: str | None = None) -> list[Mapping[str, Any]]:
    """Every rule of the file, those that record among them."""
    groups = yaml.safe_load(document or ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[Mapping[str, Any]]:
    """Every rule that alerts."""
    return [rule for rule in rules() if "alert" in rule]


def runbook_entries() -> dict[str, str]:
    """The runbook's entries by their headings."""
    parts = re.split(r"^## (.+)\n", RUNBOOK, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def known_series() -> dict[str, frozenset[str]]:
    """Every series that Prometheus has, with its labels: what processes tell, what rules record, and its own."""
    recorded = {rule["record"]: frozenset[str]() for rule in rules() if "record" in rule}
    return {**series(), **recorded, "ALERTS": SCRAPED | {"alertname", "alertstate", "severity"}}


def asked(expression: str) -> tuple[set[str], set[str]]:
    """The series that an expression reads, and the labels that it names."""
    names, labels = set(), set()
    for part in _parts(promql_parser.parse(expression.replace("$__rate_interval", "5m"))):
        if isinstance(part, promql_parser.VectorSelector):
            names.add(part.name)
            labels.update(matcher.name for matcher in part.matchers.matchers)
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            labels.update(part.modifier.labels)
    return names, labels


def _parts(expression: Any) -> Iterator[Any]:
    """An expression and all that it is made of."""
    yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from _parts(inner)
    for argument in getattr(expression, "args", None) or []:
        yield from _parts(argument)
