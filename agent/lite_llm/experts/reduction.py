"""Sums over a row in one fixed tree: built of elementwise sums, which round alike in any batch.

Legend: T rows, E columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm import kernels


def row_sum(x_TE: Tensor) -> Tensor:
    """Sum over the last dimension, kept with size 1; zeros at the end never change a bit."""
    width = 1 << max(x_TE.shape[-1] - 1, 0).bit_length()
    x_TE = functional.pad(x_TE, (0, width - x_TE.shape[-1]))
    while width > 1:
        width //= 2
        x_TE = x_TE[..., :width] + x_TE[..., width:]
    return x_TE


def softmax(scores_TE: Tensor) -> Tensor:
    """Over the last dimension, float32; -inf takes no share, and at the end changes no bit."""
    if scores_TE.is_cpu:
        rows_RE = scores_TE.reshape(-1, scores_TE.shape[-1])
        return kernels.softmax(rows_RE).view(scores_TE.shape)
    powers_TE = (scores_TE - scores_TE.amax(-1, keepdim=True)).exp()
    return powers_TE / row_sum(powers_TE)


def sigmoid(scores: Tensor) -> Tensor:
    """From ``exp``: torch's own rounds the last elements of a tensor differently."""
    return torch.reciprocal(1.0 + (-scores).exp())
