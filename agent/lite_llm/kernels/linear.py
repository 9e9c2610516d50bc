"""Products with weights. Legend: T rows, K inputs, N outputs, S rows sorted by expert."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import products
from lite_llm.kernels.mode import is_fast
from lite_llm.kernels.threads import get_threads, scratch, table_of
from lite_llm.kernels.vector import KINDS

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
    if weight_NK.dtype not in KINDS or not _is_ours(x_TK):
        y_TN = functional.linear(x_TK, weight_NK, bias_N)
        return y_TN if out_dtype is None else y_TN.to(out_dtype)
    biases = None if bias_N is None else (bias_N.contiguous(),)
    return _multiply(x_TK, (weight_NK,), None, biases, out_dtype)


def grouped_linear(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None = None,
) -> Tensor:
    """The first ``counts[0]`` rows times the first weight, and so on: ``[S, N]``.

    The bits are those of ``linear`` with that weight. Weights have one shape, dtype and layout;
    biases are contiguous.

    :raises ValueError: ``counts`` don't add up to S.
    """
    if sum(counts) != x_SK.shape[0]:
        raise ValueError(f"counts add up to {sum(counts)}, not to the {x_SK.shape[0]} rows")
    if not _is_ours(x_SK):
        parts = torch.split(x_SK, list(counts))
        return torch.cat(
            [
                functional.linear(part, weight, None if biases_N is None else biases_N[index])
                for index, (part, weight) in enumerate(zip(parts, weights_NK, strict=True))
            ]
        )
    return _multiply(x_SK, weights_NK, counts, biases_N, None)


def _is_ours(x: Tensor) -> bool:
    return x.dtype in KINDS and x.is_cpu and not is_fast()


def _multiply(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int] | None,
    biases_N: Sequence[Tensor] | None,
    out_dtype: torch.dtype | None,
) -> Tensor:
    rows, inputs = x_SK.shape
    weight_NK = weights_NK[0]
    outputs, wanted = weight_NK.shape
    if wanted != inputs:
        raise ValueError(f"rows of {inputs} don't fit weights of {tuple(weight_NK.shape)}")
    if out_dtype is None or out_dtype is x_SK.dtype:
        y_SN = x_SK.new_empty((rows, outputs))
    else:
        y_SN = x_SK.new_empty((rows, outputs), dtype=out_dtype)
    if rows == 0 or outputs == 0:
        return y_SN
    if inputs > 1 and x_SK.stride(1) != 1:
        x_SK = x_SK.contiguous()
    if inputs > 1 and weight_NK.stride(1) != 1:
        weights_NK = [weight.contiguous() for weight in weights_NK]
        weight_NK = weights_NK[0]
    kind = KINDS[x_SK.dtype]
    nbytes = products.SCRATCH
    packed = None
    if rows > 1:
        packed = _pack(x_SK)
    else:
        nbytes += 4 * inputs + 64
    pieces, table = _pieces(rows, weights_NK, counts, biases_N)
    # Fewer outputs a task where there is little work to share out.
    width, threads = products.PANEL_OUTPUTS, get_threads()
    while width > 8 and threads > 1 and pieces * outputs < 4 * threads * width:
        width //= 2
    products.multiply.run(
        pieces * -(-outputs // width),
        rows * inputs * outputs,
        0 if packed is None else packed.data_ptr(),
        rows,
        inputs,
        outputs,
        KINDS[weight_NK.dtype],
        weight_NK.stride(0) * weight_NK.itemsize,
        y_SN.data_ptr(),
        outputs * y_SN.itemsize,
        KINDS[y_SN.dtype],
        0 if biases_N is None else KINDS[biases_N[0].dtype],
        scratch(nbytes),
        width,
        table,
        weight_NK.data_ptr(),
        0 if biases_N is None else biases_N[0].data_ptr(),
        x_SK.data_ptr(),
        kind,
        nbytes,
    )
    return y_SN


def _pack(x_SK: Tensor) -> Tensor:
    rows, inputs = x_SK.shape
    blocks = -(-inputs // products.BLOCK)
    packed = torch.empty(blocks * rows * products.BLOCK)
    chunk = max(1, _PACKED_NUMBERS // inputs)
    products.pack.run(
        -(-rows // chunk),
        rows * inputs,
        x_SK.data_ptr(),
        x_SK.stride(0) * x_SK.itemsize,
        KINDS[x_SK.dtype],
        inputs,
        rows,
        packed.data_ptr(),
        chunk,
    )
    return packed


def _pieces(
    rows: int,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int] | None,
    biases_N: Sequence[Tensor] | None,
) -> tuple[int, int]:
    """Into how many pieces the rows are cut, and the address of the table that lists them.

    One weight needs no table.
    """
    if counts is None:
        return -(-rows // products.PANEL_ROWS), 0
    entries: list[int] = []
    first = 0
    for index, (weight_NK, count) in enumerate(zip(weights_NK, counts, strict=True)):
        bias = 0 if biases_N is None else biases_N[index].data_ptr()
        for begin in range(first, first + count, products.PANEL_ROWS):
            size = min(products.PANEL_ROWS, first + count - begin)
            entries += (weight_NK.data_ptr(), bias, begin, size)
        first += count
    return len(entries) // 4, table_of(entries)
