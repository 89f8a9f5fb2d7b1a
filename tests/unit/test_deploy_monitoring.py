"""Prometheus scrapes every process, and the dashboard asks only for what they tell."""

import json
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from tests.metrics_list import series
from tests.unit.deployment import DEPLOY, PROCESSES, default_port, load_yaml

DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))


def panels(dashboard: Any) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions() -> list[str]:
    return [
        target["expr"]
        for path in DASHBOARDS
        for panel in panels(json.loads(path.read_text()))
        for target in panel.get("targets", [])
    ]


def parts(expression: Any) -> Iterator[Any]:
    """An expression and all that it is made of."""
    yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from parts(inner)
    for argument in getattr(expression, "args", None) or []:
        yield from parts(argument)


def asked(expression: str) -> tuple[set[str], set[str]]:
    """The series that an expression reads, and the labels that it names."""
    names, labels = set(), set()
    for part in parts(promql_parser.parse(expression.replace("$__rate_interval", "5m"))):
        if isinstance(part, promql_parser.VectorSelector):
            names.add(part.name)
            labels.update(matcher.name for matcher in part.matchers.matchers)
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            labels.update(part.modifier.labels)
    return names, labels


@pytest.mark.parametrize("expression", expressions())
def test_the_dashboard_asks_for_what_exists(expression: str) -> None:
    known = series()
    names, labels = asked(expression)
    assert names
    assert names <= set(known)
    for name in names:
        assert labels <= known[name], f"{name} has no label {labels - known[name]}"


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
        assert all(panel["datasource"]["uid"] == source["uid"] for panel in shown)
        assert all(target["datasource"]["uid"] == source["uid"] for panel in shown for target in panel["targets"])


def test_dashboards_are_where_grafana_looks() -> None:
    (provider,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "chat-sessions.yaml")["providers"]
    mounts = load_yaml(DEPLOY / "compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert DASHBOARDS


def test_prometheus_scrapes_every_process() -> None:
    configured = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    scraped = {
        config["job_name"]: (lookup["names"], lookup["port"])
        for config in configured
        for lookup in config["dns_sd_configs"]
    }
    assert scraped == {command: ([command], default_port(command)) for command in PROCESSES}
