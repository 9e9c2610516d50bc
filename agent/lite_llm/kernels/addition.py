"""What a block adds to the residual stream. Legend: T rows, D hidden."""

from __future__ import annotations

from torch import Tensor

from lite_llm.kernels import rowwise
from lite_llm.kernels.threads import chunk_rows, float_bits
from lite_llm.kernels.vector import KINDS


def add(x_TD: Tensor, y_TD: Tensor, *, scale: float = 1.0) -> Tensor:
    """``x + scale * y``, rounded to x's dtype after each step."""
    ours = x_TD.is_cpu and x_TD.dtype in KINDS and y_TD.dtype is x_TD.dtype
    if not (ours and x_TD.dim() == 2 and x_TD.shape == y_TD.shape):
        return x_TD + y_TD * scale
    x_TD, y_TD = (x if x.stride(1) == 1 else x.contiguous() for x in (x_TD, y_TD))
    rows, size = x_TD.shape
    out_TD = x_TD.new_empty((rows, size))
    chunk, step = chunk_rows(rows, size), x_TD.element_size()
    rowwise.add.run(
        -(-rows // chunk),
        2 * rows * size,
        x_TD.data_ptr(),
        x_TD.stride(0) * step,
        y_TD.data_ptr(),
        y_TD.stride(0) * step,
        out_TD.data_ptr(),
        size,
        KINDS[x_TD.dtype],
        float_bits(scale),
        rows,
        chunk,
    )
    return out_TD
