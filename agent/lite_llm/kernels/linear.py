"""Products with weights. Legend: T rows, K inputs, N outputs, S rows sorted by expert."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import products
from lite_llm.kernels.threads import get_threads, scratch, table_of
from lite_llm.kernels.vector import KINDS, LANES

_PACKED_NUMBERS = 1 << 15
"""Numbers of x that one task packs."""


def linear(
    x_TK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``x @ weight.T + bias``, summed in float32 and rounded once: ``[T, N]`` in x's dtype.

    A row's bits depend on that row and the weights alone. x, weight and bias may differ in dtype.
    """
    out_dtype = out_dtype or x_TK.dtype
    if not (weight_NK.dtype in KINDS and x_TK.dtype in KINDS and x_TK.device.type == "cpu"):
        y_TN = functional.linear(x_TK, weight_NK, bias_N)
        return y_TN.to(out_dtype)
    biases = None if bias_N is None else (bias_N,)
    return _multiply(x_TK, (weight_NK,), (x_TK.shape[0],), biases, out_dtype)


def grouped_linear(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None = None,
) -> Tensor:
    """The first ``counts[0]`` rows times the first weight, and so on: ``[S, N]``.

    The bits are those of ``linear`` with that weight. Weights have one shape, dtype and layout.

    :raises ValueError: ``counts`` don't add up to S.
    """
    if sum(counts) != x_SK.shape[0]:
        raise ValueError(f"counts add up to {sum(counts)}, not to the {x_SK.shape[0]} rows")
    if not (x_SK.dtype in KINDS and x_SK.device.type == "cpu"):
        parts = torch.split(x_SK, list(counts))
        return torch.cat(
            [
                functional.linear(part, weight, None if biases_N is None else biases_N[index])
                for index, (part, weight) in enumerate(zip(parts, weights_NK, strict=True))
            ]
        )
    return _multiply(x_SK, weights_NK, counts, biases_N, x_SK.dtype)


def _multiply(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None,
    out_dtype: torch.dtype,
) -> Tensor:
    rows, inputs = x_SK.shape
    outputs = weights_NK[0].shape[0]
    if weights_NK[0].shape[1] != inputs:
        raise ValueError(f"rows of {inputs} don't fit weights of {tuple(weights_NK[0].shape)}")
    y_SN = x_SK.new_empty((rows, outputs), dtype=out_dtype)
    if rows == 0 or outputs == 0:
        return y_SN
    if inputs > 1 and x_SK.stride(1) != 1:
        x_SK = x_SK.contiguous()
    if inputs > 1 and weights_NK[0].stride(1) != 1:
        weights_NK = [weight.contiguous() for weight in weights_NK]
    kind = KINDS[x_SK.dtype]
    if rows == 1 and x_SK.dtype is torch.float32 and inputs % LANES == 0:
        packed = x_SK
    else:
        blocks = -(-inputs // products.BLOCK)
        packed = torch.empty(blocks * rows * products.BLOCK)
        chunk = max(1, _PACKED_NUMBERS // inputs)
        products.pack.run(
            -(-rows // chunk),
            rows * inputs,
            x_SK.data_ptr(),
            x_SK.stride(0) * x_SK.element_size(),
            kind,
            inputs,
            rows,
            packed.data_ptr(),
            chunk,
        )
    pieces, table = _pieces(weights_NK, counts, biases_N)
    # Fewer outputs a task where there is little work to share out.
    width = products.PANEL_OUTPUTS
    while width > 8 and pieces * -(-outputs // width) < 4 * get_threads():
        width //= 2
    products.multiply.run(
        pieces * -(-outputs // width),
        rows * inputs * outputs,
        packed.data_ptr(),
        rows,
        inputs,
        outputs,
        KINDS[weights_NK[0].dtype],
        weights_NK[0].stride(0) * weights_NK[0].element_size(),
        y_SN.data_ptr(),
        outputs * y_SN.element_size(),
        KINDS[out_dtype],
        0 if biases_N is None else KINDS[biases_N[0].dtype],
        scratch(products.SCRATCH),
        width,
        table,
        weights_NK[0].data_ptr(),
        0 if biases_N is None else biases_N[0].data_ptr(),
    )
    return y_SN


def _pieces(
    weights_NK: Sequence[Tensor], counts: Sequence[int], biases_N: Sequence[Tensor] | None
) -> tuple[int, int]:
    """Into how many pieces the rows are cut, and the address of the table that lists them.

    One weight needs no table.
    """
    if len(counts) == 1:
        return -(-counts[0] // products.PANEL_ROWS), 0
    entries: list[int] = []
    first = 0
    for index, (weight_NK, count) in enumerate(zip(weights_NK, counts, strict=True)):
        bias = 0 if biases_N is None else biases_N[index].data_ptr()
        for begin in range(first, first + count, products.PANEL_ROWS):
            size = min(products.PANEL_ROWS, first + count - begin)
            entries += (weight_NK.data_ptr(), bias, begin, size)
        first += count
    return len(entries) // 4, table_of(entries)
