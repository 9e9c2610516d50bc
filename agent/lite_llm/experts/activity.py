"""How often each expert ran: what tiers are drawn from (``lite-llm convert --tiers``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lite_llm.experts.packing import Packing
from lite_llm.experts.routing import Routed
from lite_llm.experts.traces import Trace


class Activity:
    """Tokens that each expert of each layer computed; counts in one process, by one thread."""

    def __init__(self, experts_of_layer: Mapping[int, int]) -> None:
        """``experts_of_layer``: how many there are, of the layers that have any."""
        self.counts = {layer: [0] * count for layer, count in experts_of_layer.items()}

    @classmethod
    def of(cls, trace: Trace) -> Activity:
        """What a serving model recorded."""
        activity = cls(trace.experts_of_layer)
        activity.counts = trace.activity()
        return activity

    def record(self, layer: int, routed: Routed, packing: Packing) -> None:
        """Count one step's rows of a layer."""
        counts = self.counts[layer]
        for expert, rows in zip(packing.experts, packing.counts, strict=True):
            counts[expert] += rows

    def write(self, path: Path) -> None:
        """As the ``activations`` file of a tier assignment (docs/checkpoint-format.md)."""
        path.write_text(json.dumps(self.counts, separators=(",", ":")) + "\n")
