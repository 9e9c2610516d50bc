"""Writes down what routers choose while a model serves (:mod:`lite_llm.experts.traces`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lite_llm.experts.packing import Packing
from lite_llm.experts.routing import Routed
from lite_llm.experts.step_rows import StepRows
from lite_llm.experts.traces import TraceRecorder


class Tracing:
    """An observer of all layers. It grows with every token: for a while, not for ever."""

    def __init__(self, experts_of_layer: Mapping[int, int], rows: StepRows) -> None:
        """``rows`` of the steps; sequences are told apart within a step only."""
        self._experts_of_layer = dict(experts_of_layer)
        self._rows = rows
        self._recorder: TraceRecorder | None = None

    def __call__(self, layer: int, routed: Routed, packing: Packing) -> None:
        """See :data:`Observer`."""
        num_rows, top_k = routed.experts_TK.shape
        if self._recorder is None:
            self._recorder = TraceRecorder(self._experts_of_layer, top_k)
        if layer == min(self._experts_of_layer):
            sequences, decodes_T = self._rows.sequence_T, self._rows.decodes_T
            numbers = [0] * num_rows if sequences is None else sequences.tolist()
            is_prompt_T = np.zeros(num_rows, np.bool_) if decodes_T is None else ~decodes_T
            self._recorder.begin_step(numbers, is_prompt_T.tolist())
        weights_TK = routed.weights_TK.cpu().numpy()
        self._recorder.record(layer, routed.experts_TK.cpu().numpy(), weights_TK)

    def wish(self, expert: int, odds: float) -> None:
        """An expert, numbered through all layers, is fetched early."""
        if self._recorder is not None:
            self._recorder.wish(expert, odds)

    def write(self, path: Path) -> None:
        """What was seen so far, if anything was."""
        if self._recorder is not None:
            self._recorder.trace().write(path)
