"""Which rows of a step belong to prompts: experts that only they want never push out the others.

Legend: T rows of a step, S packed rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lite_llm.experts.packing import Packing


class StepRows:
    """The step under way. Read by what runs within it, in the same thread."""

    def __init__(self) -> None:
        self.sequence_T: Tensor | None = None
        """Of each row its sequence, numbered within the step; rows of one are adjacent."""
        self.decodes_T: NDArray[np.bool_] | None = None
        """Whether a row is the only one of its sequence; None if all are."""

    def begin(self, sequence_T: Tensor) -> None:
        """Another step, of these rows."""
        self.sequence_T = sequence_T
        self.decodes_T = None
        if len(sequence_T) > 1:
            sequences = sequence_T.cpu().numpy()
            decodes_T = np.bincount(sequences)[sequences] == 1
            self.decodes_T = None if decodes_T.all() else decodes_T

    def only_prompts(self, packing: Packing) -> NDArray[np.bool_] | None:
        """Of each of the packing's experts, whether no row that decodes chose it; None: none is."""
        if self.decodes_T is None or not packing.counts:
            return None
        decodes_S = self.decodes_T[packing.tokens_S.cpu().numpy()]
        starts = np.cumsum((0, *packing.counts[:-1]))
        return ~np.logical_or.reduceat(decodes_S, starts)
