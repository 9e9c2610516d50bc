"""Products with weights. Legend: T rows, K inputs, N outputs, S rows sorted by expert."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def linear(
    x_TK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``x @ weight.T + bias``, summed in float32 and rounded once: ``[T, N]`` in x's dtype.

    A row's bits depend on that row and the weights alone.
    """
    y_TN = functional.linear(x_TK, weight_NK, bias_N)
    return y_TN if out_dtype is None else y_TN.to(out_dtype)


def grouped_linear(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None = None,
) -> Tensor:
    """The first ``counts[0]`` rows times the first weight, and so on: ``[S, N]``."""
    parts = torch.split(x_SK, list(counts))
    return torch.cat(
        [
            linear(part, weight, None if biases_N is None else biases_N[index])
            for index, (part, weight) in enumerate(zip(parts, weights_NK, strict=True))
        ]
    )
