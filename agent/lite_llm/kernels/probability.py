"""Softmax over a vocabulary. Legend: R rows, V entries."""

from __future__ import annotations

import torch
from torch import Tensor

from lite_llm.kernels import rowwise
from lite_llm.kernels.cuda_tensors import on_gpu


def softmax(x_RV: Tensor) -> Tensor:
    """Probabilities, float32: ``exp(x - max) / sum``. A row with NaN or +inf gives NaNs."""
    return _soften(x_RV, logarithm=False)


def log_softmax(x_RV: Tensor) -> Tensor:
    """Their logarithms, float32: ``x - max - log(sum)``."""
    return _soften(x_RV, logarithm=True)


def _soften(x_RV: Tensor, *, logarithm: bool) -> Tensor:
    if on_gpu(x_RV):
        from lite_llm.kernels import triton_rowwise

        return triton_rowwise.soften(x_RV.float(), logarithm=logarithm)
    if not x_RV.is_cpu:
        return torch.log_softmax(x_RV.float(), -1) if logarithm else torch.softmax(x_RV.float(), -1)
    x_RV = x_RV.float()
    if x_RV.stride(1) != 1:
        x_RV = x_RV.contiguous()
    rows, size = x_RV.shape
    out_RV = torch.empty((rows, size))
    rowwise.soften.run(
        rows,
        8 * rows * size,
        x_RV.data_ptr(),
        x_RV.stride(0) * 4,
        out_RV.data_ptr(),
        size,
        logarithm,
    )
    return out_RV
