"""Rotary embedding, applied. Legend: T rows, H heads, C dimensions of a head, R of them turned."""

from __future__ import annotations

import torch
from torch import Tensor

from lite_llm.kernels import rowwise
from lite_llm.kernels.cuda_tensors import on_gpu
from lite_llm.kernels.threads import chunk_rows
from lite_llm.kernels.vector import KINDS


def rotate(x_THC: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the first R dimensions of every head; dimension i is paired with i + R / 2.

    ``cos_TR`` and ``sin_TR`` are float32 and hold both halves; the result has x's dtype, and is
    rounded as transformers rounds: the factors to x's dtype first, then each product, then the sum.
    """
    if on_gpu(x_THC):
        from lite_llm.kernels import triton_rowwise

        return triton_rowwise.rotate(x_THC, cos_TR, sin_TR)
    same = cos_TR.dtype is torch.float32 and cos_TR.stride() == sin_TR.stride()
    if not (x_THC.is_cpu and x_THC.dtype in KINDS and same and cos_TR.stride(1) == 1):
        return _reference(x_THC, cos_TR, sin_TR)
    if x_THC.stride(2) != 1:
        x_THC = x_THC.contiguous()
    rows, heads, size = x_THC.shape
    out_THC = torch.empty((rows, heads, size), dtype=x_THC.dtype)
    chunk = chunk_rows(rows, heads * size)
    step = x_THC.element_size()
    rowwise.rotate.run(
        -(-rows // chunk),
        8 * rows * heads * size,
        x_THC.data_ptr(),
        x_THC.stride(0) * step,
        x_THC.stride(1) * step,
        heads,
        size,
        KINDS[x_THC.dtype],
        cos_TR.data_ptr(),
        sin_TR.data_ptr(),
        cos_TR.stride(0) * 4,
        cos_TR.shape[1] // 2,
        out_THC.data_ptr(),
        rows,
        chunk,
    )
    return out_THC


def _reference(x_THC: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    width = cos_TR.shape[-1]
    turned, rest = x_THC[..., :width], x_THC[..., width:]
    first, second = turned.chunk(2, dim=-1)
    cos, sin = cos_TR.to(x_THC.dtype)[:, None], sin_TR.to(x_THC.dtype)[:, None]
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
