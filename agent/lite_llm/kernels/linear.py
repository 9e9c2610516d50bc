"""Products with weights. Legend: T rows, K inputs, N outputs, S rows sorted by expert."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import products
from lite_llm.kernels.cuda_tensors import on_gpu
from lite_llm.kernels.mode import is_fast
from lite_llm.kernels.threads import get_threads, scratch, table_of
from lite_llm.kernels.vector import FLOAT32, KINDS, LANES

Weights = tuple[Tensor, Tensor | None]
"""A weight ``[N, K]`` and its bias ``[N]``, if it has one."""
_PACKED_NUMBERS = 1 << 15
"""Numbers of x that one task packs."""
_TASKS = 12
"""Of a thread at least, so that none waits long for the last one."""
_Part = tuple[Tensor, Tensor | None, int, int, Tensor]
"""A weight, its bias, the first row that meets it, how many, and where all rows' outputs go."""


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
    if on_gpu(x_TK, weight_NK) and not is_fast():
        from lite_llm.kernels import triton_linear

        return triton_linear.linear(x_TK, (weight_NK, bias_N), out_dtype)
    if weight_NK.dtype not in KINDS or not _is_ours(x_TK):
        y_TN = functional.linear(x_TK, weight_NK, bias_N)
        return y_TN if out_dtype is None else y_TN.to(out_dtype)
    rows = len(x_TK)
    y_TN = x_TK.new_empty((rows, len(weight_NK)), dtype=out_dtype or x_TK.dtype)
    _multiply(x_TK, [(weight_NK, bias_N, 0, rows, y_TN)])
    return y_TN


def linears(x_TK: Tensor, weights: Sequence[Weights]) -> list[Tensor]:
    """What ``linear`` gives for each weight, bit for bit, started once for all: ``[T, N]`` each."""
    if on_gpu(x_TK, *(weight_NK for weight_NK, _ in weights)) and not is_fast():
        from lite_llm.kernels import triton_linear

        return triton_linear.linears(x_TK, weights)
    first_NK, first_N = weights[0]
    alike = all(
        weight_NK.dtype is first_NK.dtype
        and (bias_N is None or first_N is None or bias_N.dtype is first_N.dtype)
        for weight_NK, bias_N in weights
    )
    if not alike or first_NK.dtype not in KINDS or not _is_ours(x_TK):
        return [linear(x_TK, *each) for each in weights]
    rows = len(x_TK)
    outputs = [x_TK.new_empty((rows, len(weight_NK))) for weight_NK, _ in weights]
    _multiply(x_TK, [(*each, 0, rows, y_TN) for each, y_TN in zip(weights, outputs, strict=True)])
    return outputs


def grouped_linear(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None = None,
) -> Tensor:
    """The first ``counts[0]`` rows times the first weight, and so on: ``[S, N]``.

    The bits are those of ``linear`` with that weight. Weights have one shape and dtype, and so
    have biases.

    :raises ValueError: ``counts`` don't add up to S.
    """
    if sum(counts) != x_SK.shape[0]:
        raise ValueError(f"counts add up to {sum(counts)}, not to the {x_SK.shape[0]} rows")
    if on_gpu(x_SK, *weights_NK) and not is_fast():
        from lite_llm.kernels import triton_linear

        return triton_linear.grouped_linear(x_SK, weights_NK, counts, biases_N)
    if not _is_ours(x_SK):
        rows = torch.split(x_SK, list(counts))
        return torch.cat(
            [
                functional.linear(some, weight, None if biases_N is None else biases_N[index])
                for index, (some, weight) in enumerate(zip(rows, weights_NK, strict=True))
            ]
        )
    y_SN = x_SK.new_empty((len(x_SK), len(weights_NK[0])))
    parts, first = list[_Part](), 0
    for index, (weight_NK, count) in enumerate(zip(weights_NK, counts, strict=True)):
        parts.append((weight_NK, biases_N[index] if biases_N else None, first, count, y_SN))
        first += count
    _multiply(x_SK, parts)
    return y_SN


def _is_ours(x: Tensor) -> bool:
    return x.dtype in KINDS and x.is_cpu and not is_fast()


def _multiply(x_SK: Tensor, parts: Sequence[_Part]) -> None:
    """Weights are of one dtype, biases too."""
    rows, inputs = x_SK.shape
    parts = [
        (_in_rows(weight_NK), None if bias_N is None else bias_N.contiguous(), first, count, y_SN)
        for weight_NK, bias_N, first, count, y_SN in parts
    ]
    entries, widest, bias_kind = list[int](), 0, FLOAT32
    for weight_NK, bias_N, first, count, y_SN in parts:
        outputs, wanted = weight_NK.shape
        if wanted != inputs:
            raise ValueError(f"rows of {inputs} don't fit weights of {tuple(weight_NK.shape)}")
        widest, bias = max(widest, outputs), 0
        if bias_N is not None:
            bias, bias_kind = bias_N.data_ptr(), KINDS[bias_N.dtype]
        weight, stride = weight_NK.data_ptr(), weight_NK.stride(0) * weight_NK.itemsize
        to, to_stride = y_SN.data_ptr(), outputs * y_SN.itemsize
        for begin in range(first, first + count, products.PANEL_ROWS):
            size = min(products.PANEL_ROWS, first + count - begin)
            entries += (weight, stride, bias, begin, size, outputs, to, to_stride)
    if rows == 0 or widest == 0:
        return
    x_SK = _in_rows(x_SK)
    nbytes, packed = products.SCRATCH, None
    if rows > 1:
        packed = _pack(x_SK)
    elif x_SK.dtype is not torch.float32 or inputs % LANES:
        nbytes += 4 * inputs + 64
    pieces, threads = len(entries) // products.PIECE_WORDS, get_threads()
    # Fewer outputs a task where there is little work to share out.
    width = products.PANEL_OUTPUTS
    while width > LANES and threads > 1 and pieces * widest < _TASKS * threads * width:
        width //= 2
    blocks = -(-widest // width)
    products.multiply.run(
        pieces * blocks,
        sum(entry[3] * entry[0].numel() for entry in parts),
        0 if packed is None else packed.data_ptr(),
        rows,
        inputs,
        KINDS[parts[0][0].dtype],
        KINDS[parts[0][4].dtype],
        bias_kind,
        table_of(entries),
        blocks,
        width,
        scratch(nbytes),
        nbytes,
        x_SK.data_ptr(),
        KINDS[x_SK.dtype],
    )


def _in_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()


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
