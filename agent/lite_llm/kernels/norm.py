"""Normalisation. Legend: T rows (any leading dimensions), D the dimension normalised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import rowwise
from lite_llm.kernels.cuda_tensors import on_gpu
from lite_llm.kernels.threads import chunk_rows, float_bits
from lite_llm.kernels.vector import KINDS


def rms_norm(
    x_TD: Tensor, weight_D: Tensor | None, epsilon: float, *, plus_one: bool = False
) -> Tensor:
    """Zhang and Sennrich (2019), in float32, rounded to x's dtype before the weight is applied.

    ``plus_one``: Gemma's, whose weights are stored less one and applied in float32, before the
    rounding. Without a weight: the division alone.
    """
    if on_gpu(x_TD):
        from lite_llm.kernels import triton_rowwise

        return triton_rowwise.rms_norm(x_TD, weight_D, epsilon, plus_one=plus_one)
    if not (x_TD.is_cpu and x_TD.dtype in KINDS):
        return _reference(x_TD, weight_D, epsilon, plus_one)
    out_dtype = x_TD.dtype
    if weight_D is not None:
        weight_D = weight_D.contiguous()
        if not plus_one and weight_D.dtype is not out_dtype:
            out_dtype = torch.promote_types(out_dtype, weight_D.dtype)
    size = x_TD.shape[-1]
    out_TD = x_TD.new_empty(x_TD.shape, dtype=out_dtype)
    if x_TD.dim() == 3 and x_TD.stride(2) == 1:
        inner, outer_stride, inner_stride = x_TD.shape[1], x_TD.stride(0), x_TD.stride(1)
    else:
        if x_TD.dim() != 2 or x_TD.stride(1) != 1:
            x_TD = x_TD.contiguous()
        inner, inner_stride = 1, 0
        outer_stride = x_TD.stride(0) if x_TD.dim() == 2 else size
    rows = out_TD.numel() // max(1, size)
    chunk = chunk_rows(rows, size)
    step = x_TD.element_size()
    rowwise.normalise.run(
        -(-rows // chunk),
        8 * rows * size,
        x_TD.data_ptr(),
        outer_stride * step,
        inner_stride * step,
        inner,
        KINDS[x_TD.dtype],
        size,
        0 if weight_D is None else weight_D.data_ptr(),
        0 if weight_D is None else KINDS[weight_D.dtype],
        plus_one,
        out_TD.data_ptr(),
        KINDS[out_dtype],
        float_bits(epsilon),
        rows,
        chunk,
    )
    return out_TD


def _reference(x_TD: Tensor, weight_D: Tensor | None, epsilon: float, plus_one: bool) -> Tensor:
    x32_TD = x_TD.float()
    y_TD = functional.rms_norm(x32_TD, x_TD.shape[-1:], eps=epsilon)
    if plus_one and weight_D is not None:
        return (y_TD * (1.0 + weight_D.float())).to(x_TD.dtype)
    return y_TD.to(x_TD.dtype) if weight_D is None else weight_D * y_TD.to(x_TD.dtype)
