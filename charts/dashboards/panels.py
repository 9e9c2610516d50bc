"""What a dashboard is to us, and its Grafana form (schema of Grafana 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import StackingConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import StackingMode

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT, FILL = 8, 12
DOORS = 'job=~".*orchestrator"'
"""Metrics that agents and orchestrators have in common, as requests see them."""


@dataclass(frozen=True)
class Query:
    """``legend`` is a template over labels."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One question and its answer; ``unit`` is Grafana's id of it."""

    title: str
    told: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["lines", "stack", "number"] = "lines"
    span: int = 8


@dataclass(frozen=True)
class Variable:
    """Chosen at the top: values of ``query``, or with none of them a text."""

    name: str
    label: str
    query: str = ""
    text: str = ""


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels, by the rows' titles."""

    name: str
    title: str
    told: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[Variable, ...] = ()


def quantiles(metric: str, labels: str = "", by: str = "", legend: str = "") -> tuple[Query, ...]:
    """Median, p95 and p99 of a histogram, by a label or over all."""
    inner = f"sum by (le{', ' + by if by else ''}) (rate({metric}_bucket{{{labels}}}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({share}, {inner})", f"{legend} {name}".strip())
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


def quiet(expr: str) -> str:
    """Nothing happened is 0, and not a hole."""
    return f"{expr} or vector(0)"


def built(board: Board) -> models.Dashboard:
    """For Grafana."""
    made = (
        dashboards.Dashboard(board.title)
        .uid(f"lite-llm-{board.name}")
        .description(board.told)
        .tags(["lite-llm"])
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboards.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
    )
    for variable in board.variables:
        made = made.with_variable(_variable(variable))
    for title, panels in board.rows:
        made = made.with_row(dashboards.Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel))
    return made.build()


def _variable(variable: Variable) -> Builder[models.VariableModel]:
    if not variable.query:
        text = dashboards.TextBoxVariable(variable.name).label(variable.label)
        return text.default_value(variable.text)
    return (
        dashboards.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query(variable.query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> Builder[models.Panel]:
    if panel.kind == "number":
        made: stat.Panel | timeseries.Panel = stat.Panel().height(HEIGHT // 2)
    elif panel.kind == "stack":
        stacked = StackingConfig().mode(StackingMode.NORMAL)
        made = timeseries.Panel().height(HEIGHT).fill_opacity(FILL).stacking(stacked)
    else:
        made = timeseries.Panel().height(HEIGHT).fill_opacity(FILL)
    made = made.title(panel.title).description(panel.told).unit(panel.unit)
    made = made.datasource(SOURCE).span(panel.span)
    for query in panel.queries:
        target = prometheus.Dataquery().expr(query.expr)
        made = made.with_target(target.legend_format(query.legend or "__auto"))
    return made
