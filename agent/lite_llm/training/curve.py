"""A run's loss as a picture; needs matplotlib, which nothing else does."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.training.trainer import Step

_SMOOTH = 25  # steps that the line averages over


def draw_curve(steps: Sequence[Step], path: Path, *, title: str) -> None:
    """Loss of each step and its running mean; :class:`InvalidSettings` without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidSettings(
            "a picture of the loss needs matplotlib",
            where="curve",
            remedy="pip install 'lite-llm[training]'",
        )
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    numbers, losses = [step.step for step in steps], [step.loss for step in steps]
    means = [
        sum(losses[max(0, end - _SMOOTH) : end]) / min(end, _SMOOTH)
        for end in range(1, len(losses) + 1)
    ]
    axes.plot(numbers, losses, linewidth=0.6, alpha=0.4, label="each step")
    axes.plot(numbers, means, linewidth=1.6, label=f"mean of {_SMOOTH} steps")
    axes.set(xlabel="step", ylabel="loss, nats a token", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with rc_context({"svg.hashsalt": path.name}):  # equal runs, equal bytes
        figure.savefig(path, format="svg", metadata={"Date": None})
