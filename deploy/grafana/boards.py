"""What a dashboard is made of, and how it becomes Grafana's JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
TAG = "chat-sessions"
WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel, or several told apart by labels; `legend` names them. PromQL."""

    expression: str
    legend: str
    exemplars: bool = False
    """Whether its series lead to traces."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time, or with `bad_from` one number that turns red from that value on (inf: never)."""

    title: str
    meaning: str
    unit: str
    queries: Sequence[Query]
    bad_from: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable of a dashboard: one of a label's values."""

    name: str
    values: str
    """Grafana's query of them."""


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; its uid is its file's name and a part of its address."""

    uid: str
    title: str
    meaning: str
    rows: Sequence[Row]
    choices: Sequence[Choice] = field(default=())


def document(board: Board) -> str:
    """Return the dashboard as Grafana provisions it."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.meaning)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .link(_to_the_others())
    )
    for choice in board.choices:
        built = built.with_variable(_variable(choice))
    numbers, y = count(1), 0
    for row in board.rows:
        built = built.with_row(_row(row, next(numbers), y))
        for panel in _placed(row, numbers, y + 1):
            built = built.with_panel(panel)
        y += 1 + max(map(_height, row.panels))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _to_the_others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Chat sessions").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).keep_time(True)


def _variable(choice: Choice) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(choice.name).datasource(SOURCE).query(choice.values)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


def _row(row: Row, number: int, y: int) -> dashboard.Row:
    return dashboard.Row(row.title).id(number).grid_pos(_place(0, y, WIDTH, 1))


def _placed(row: Row, numbers: Iterator[int], y: int) -> Iterator[timeseries.Panel | stat.Panel]:
    width = WIDTH // len(row.panels)
    for position, panel in enumerate(row.panels):
        shown = _lines() if panel.bad_from is None else _number(panel.bad_from)
        for query, letter in zip(panel.queries, "ABCDEFGH", strict=False):
            shown = shown.with_target(_target(query, letter, at_once=panel.bad_from is not None))
        place = _place(position * width, y, width, _height(panel))
        yield (
            shown.id(next(numbers))
            .title(panel.title)
            .description(panel.meaning)
            .datasource(SOURCE)
            .unit(panel.unit)
            .grid_pos(place)
        )


def _lines() -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    return timeseries.Panel().min(0).legend(legend.show_legend(True)).tooltip(tooltip)


def _number(bad_from: float) -> stat.Panel:
    steps = [Threshold(value=None, color="green"), Threshold(value=bad_from, color="red")]
    shown = steps[:1] if math.isinf(bad_from) else steps
    return stat.Panel().thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(shown))


def _target(query: Query, letter: str, *, at_once: bool) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
    return asked.instant() if at_once else asked.range().exemplar(query.exemplars)


def _height(panel: Panel) -> int:
    return 8 if panel.bad_from is None else 4


def _place(x: int, y: int, width: int, height: int) -> GridPos:
    return GridPos(h=height, w=width, x=x, y=y)
