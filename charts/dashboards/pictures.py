"""Draws the dashboards with what a Prometheus has: `pictures.py URL FOLDER [SECONDS]`, one PNG each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
from fleet import FLEET
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from model import MODEL
from node import NODE
from panels import Board, Panel
from tenants import TENANTS

from lite_llm.testing.prometheus import PrometheusServer

STEPS = 120
COLUMNS = 3
UNITS: dict[str, Callable[[float], str]] = {
    "bytes": lambda value: _scaled(value, "B"),
    "Bps": lambda value: f"{_scaled(value, 'B')}/s",
    "s": lambda value: f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s",
    "percentunit": lambda value: f"{value:.0%}",
    "reqps": lambda value: f"{value:.3g}/s",
    "currencyUSD": lambda value: f"${value:.3g}",
    "short": lambda value: f"{value:.4g}",
}


def main() -> None:
    """Draw every board."""
    server, folder = PrometheusServer(sys.argv[1].removeprefix("http://")), Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
    matplotlib.use("agg")
    for board in (FLEET, NODE, MODEL, TENANTS):
        draw(board, server, folder / f"{board.name}.png", seconds)


def filled(board: Board, expr: str, rate_seconds: int = 10) -> str:
    """The query with its variables as a dashboard has them at first."""
    for variable in board.variables:
        expr = expr.replace(f"${variable.name}", variable.text or ".*")
    return expr.replace("$__rate_interval", f"{rate_seconds}s")


def draw(board: Board, server: PrometheusServer, path: Path, seconds: float) -> None:
    """All panels of all rows on one page."""
    panels = [panel for _, row in board.rows for panel in row]
    num_rows = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(
        num_rows, COLUMNS, figsize=(15, 2.9 * num_rows), squeeze=False, layout="constrained"
    )
    figure.suptitle(board.title, fontweight="bold")
    for axes, panel in zip(grid.flat, [*panels, *[None] * (grid.size - len(panels))], strict=True):
        if panel is None:
            axes.axis("off")
        else:
            _draw_panel(axes, board, panel, server, seconds)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def _draw_panel(
    axes: Axes, board: Board, panel: Panel, server: PrometheusServer, seconds: float
) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    unit = UNITS[panel.unit]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    now = time.time()
    for query in panel.queries:
        expr = filled(board, query.expr)
        for series in server.query_range(expr, seconds=seconds, step=seconds / STEPS):
            label = query.legend
            for name, value in series["metric"].items():
                label = label.replace("{{" + name + "}}", value)
            label = label if "{{" not in label else ""  # where nothing happened there is no name
            points = [(float(at) - now, float(value)) for at, value in series["values"]]
            axes.plot(*zip(*points, strict=True), label=label.strip() or None, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-seconds, 0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    if 0 < len(named) <= 8:
        axes.legend(fontsize=6, loc="upper left")


def _scaled(value: float, unit: str) -> str:
    for prefix in ("", "Ki", "Mi", "Gi"):
        if abs(value) < 1024:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1024
    return f"{value:.3g} Ti{unit}"


if __name__ == "__main__":
    main()
