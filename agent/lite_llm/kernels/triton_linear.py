"""Products with weights on a GPU, every sum in one order.

A tile is outputs by rows: the weight is the first operand of the matrix units, rows are the second,
so that one row costs little more than its weights' way from memory. Each sum starts at zero and
takes K in ascending order through one accumulator, never in parts, whatever the tile: rows decide
which tile is used, and hence which instruction. That instructions agree to the bit is nothing that
is promised, so a tile is used on a device only if it has given the smallest one's bits there.

Legend: T rows, S rows sorted by expert, K inputs, N outputs, M rows of a tile.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from lite_llm.kernels.triton_launch import kernel

Weights = tuple[Tensor, Tensor | None]
"""A weight ``[N, K]`` and its bias ``[N]``, if it has one."""


class Tile(NamedTuple):
    """What one program computes, and with what."""

    rows: int
    outputs: int
    depth: int
    """Of K at once: more bytes under way from memory."""
    warps: int
    stages: int


_NARROW = (
    Tile(16, 16, 256, 2, 4),
    Tile(16, 32, 128, 4, 5),
    Tile(32, 32, 128, 4, 4),
    Tile(64, 32, 128, 4, 4),
)
"""For few rows: fewer than 64 outputs keep Hopper to the instruction that all of these share."""
_BROAD = (Tile(128, 128, 64, 8, 4), Tile(64, 64, 64, 2, 4))
"""For many, the faster first; the second keeps to that same instruction by its two warps."""
_NARROW32, _BROAD32 = (Tile(16, 32, 32, 4, 2),), (Tile(64, 64, 32, 4, 2),)
"""For float32, multiplied exactly, without matrix units."""
_TOGETHER = 3
"""Weights that one launch takes: those of queries, keys and values."""
_PROBE = 2080
"""Inputs of the products that tiles are compared by: long sums, and a depth that isn't full."""
_WIDE_OUTPUTS = 8192
"""From so many outputs on there are programs enough for every multiprocessor without the first."""


@kernel(free=("rows", "tiles", "outputs", "outputs_1", "outputs_2"))
def _multiply(
    x: tl.tensor,
    x_stride: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    outputs: tl.tensor,
    weight_1: tl.tensor,
    bias_1: tl.tensor,
    out_1: tl.tensor,
    outputs_1: tl.tensor,
    weight_2: tl.tensor,
    bias_2: tl.tensor,
    out_2: tl.tensor,
    outputs_2: tl.tensor,
    weight_stride: tl.tensor,
    weight_step: tl.tensor,
    bias_step: tl.tensor,
    table: tl.tensor,
    inputs: tl.tensor,
    rows: tl.tensor,
    tiles: tl.tensor,
    PARTS: tl.constexpr,
    TABLED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIASED: tl.constexpr,
    WIDENED: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    tile, block = tl.program_id(0), tl.program_id(1)
    if PARTS > 1:
        before = tl.cdiv(outputs, OUTPUTS)
        if block >= before:
            block -= before
            weight, bias, out, outputs = weight_1, bias_1, out_1, outputs_1
            if PARTS > 2:
                before = tl.cdiv(outputs_1, OUTPUTS)
                if block >= before:
                    block -= before
                    weight, bias, out, outputs = weight_2, bias_2, out_2, outputs_2
    if TABLED:
        weight = tl.load(table + 4 * tile).to(weight.dtype)
        bias = tl.load(table + 4 * tile + 1).to(bias.dtype)
        first = tl.load(table + 4 * tile + 2)
        size = tl.load(table + 4 * tile + 3)
        if ALIGNED:
            weight = tl.multiple_of(weight, 16)
    else:  # groups of as many rows each, their weights as far apart; one group is the common case
        group = (tile // tiles).to(tl.int64)
        begin = tile % tiles * ROWS
        weight += group * weight_step
        bias += group * bias_step
        first = group * rows + begin
        size = rows - begin
    at_N = block * OUTPUTS + tl.arange(0, OUTPUTS)
    at_M = tl.arange(0, ROWS)
    at_K = tl.arange(0, DEPTH)
    is_row_M = at_M < size
    # Outputs beyond the last repeat others: they are not stored, and need no mask.
    weight_NK = weight + (at_N % outputs).to(tl.int64)[:, None] * weight_stride + at_K[None, :]
    x_KM = x + (first + at_M).to(tl.int64)[None, :] * x_stride + at_K[:, None]
    sum_NM = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for k in range(0, inputs, DEPTH):
        if EVEN:
            w_NK = tl.load(weight_NK)
            lines_KM = tl.load(x_KM, mask=is_row_M[None, :], other=0.0)
        else:
            w_NK = tl.load(weight_NK, mask=at_K[None, :] < inputs - k, other=0.0)
            is_there_KM = is_row_M[None, :] & (at_K[:, None] < inputs - k)
            lines_KM = tl.load(x_KM, mask=is_there_KM, other=0.0)
        if WIDENED:
            w_NK = w_NK.to(tl.float32)
            lines_KM = lines_KM.to(tl.float32)
        sum_NM = tl.dot(w_NK, lines_KM, sum_NM, input_precision="ieee")
        weight_NK += DEPTH
        x_KM += DEPTH
    if BIASED:
        sum_NM += tl.load(bias + at_N % outputs).to(tl.float32)[:, None]
    place_NM = (first + at_M).to(tl.int64)[None, :] * outputs + at_N[:, None]
    is_stored_NM = is_row_M[None, :] & (at_N[:, None] < outputs)
    tl.store(out + place_NM, sum_NM.to(out.dtype.element_ty), mask=is_stored_NM)


def linear(x_TK: Tensor, weights: Weights, out_dtype: torch.dtype | None = None) -> Tensor:
    """``x @ weight.T + bias``: ``[T, N]``."""
    return _together(x_TK, [weights], out_dtype or x_TK.dtype)[0]


def linears(x_TK: Tensor, weights: Sequence[Weights]) -> list[Tensor]:
    """What ``linear`` gives for each weight, up to three in one launch where they are alike."""
    if len(weights) > 1 and not _are_alike(weights):
        return [linear(x_TK, each) for each in weights]
    return [
        y_TN
        for first in range(0, len(weights), _TOGETHER)
        for y_TN in _together(x_TK, weights[first : first + _TOGETHER], x_TK.dtype)
    ]


def grouped_linear(
    x_SK: Tensor,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None,
) -> Tensor:
    """The first ``counts[0]`` rows times the first weight, and so on, in one launch: ``[S, N]``.

    Where counts are equal and weights equally far apart, as heads and slots of a pool are, nothing
    is copied to the device, so that the launch can be part of a graph.
    """
    outputs = len(weights_NK[0]) if weights_NK else 0
    out_SN = x_SK.new_empty((len(x_SK), outputs))
    most = max(counts, default=0)
    if most == 0 or outputs == 0:
        return out_SN
    weights_NK = [_in_rows(weight_NK) for weight_NK in weights_NK]
    bias_N = None if biases_N is None else biases_N[0]
    steps = _step(weights_NK), 0 if biases_N is None else _step(biases_N)
    tile = _tile_for(most, outputs, x_SK, weights_NK[0])
    if steps[0] is None or steps[1] is None or min(counts) != most:
        table = _table(tile.rows, weights_NK, counts, biases_N).to(x_SK.device, non_blocking=True)
        is_aligned = all(weight_NK.data_ptr() % 16 == 0 for weight_NK in weights_NK)
        grouping = _Grouping(0, len(table), table=table, is_aligned=is_aligned)
    else:
        grouping = _Grouping(most, len(counts) * -(-most // tile.rows), steps[0], steps[1])
    _launch(tile, x_SK, [(weights_NK[0], bias_N)], [out_SN], grouping)
    return out_SN


class _Grouping(NamedTuple):
    """Which rows meet which weights."""

    rows: int
    """Of each group."""
    tiles: int
    """Of all groups."""
    weight_step: int = 0
    """From one group's weight to the next one's, in elements."""
    bias_step: int = 0
    table: Tensor | None = None
    """In place of all these, a line for each tile."""
    is_aligned: bool = False


def _together(x_TK: Tensor, weights: Sequence[Weights], dtype: torch.dtype) -> list[Tensor]:
    rows = len(x_TK)
    weights = [(_in_rows(weight_NK), bias_N) for weight_NK, bias_N in weights]
    outs = [x_TK.new_empty((rows, len(weight_NK)), dtype=dtype) for weight_NK, _ in weights]
    tile = _tile_for(rows, max(out_TN.shape[1] for out_TN in outs), x_TK, weights[0][0])
    _launch(tile, x_TK, weights, outs, _Grouping(rows, -(-rows // tile.rows)))
    return outs


def _launch(
    tile: Tile,
    x_SK: Tensor,
    weights: Sequence[Weights],
    outs: Sequence[Tensor],
    grouping: _Grouping,
) -> None:
    x_SK = _in_rows(x_SK)
    inputs = x_SK.shape[1]
    parts: list[Any] = []
    for (weight_NK, bias_N), out_SN in zip(weights, outs, strict=True):
        if weight_NK.shape[1] != inputs:
            raise ValueError(f"rows of {inputs} don't fit weights of {tuple(weight_NK.shape)}")
        parts += [weight_NK, out_SN if bias_N is None else bias_N.contiguous()]
        parts += [out_SN, out_SN.shape[1]]
    weight_NK, bias_N = weights[0]
    _multiply.launch(
        (grouping.tiles, sum(-(-out_SN.shape[1] // tile.outputs) for out_SN in outs)),
        x_SK,
        x_SK.stride(0),
        *parts,
        *parts[:4] * (_TOGETHER - len(weights)),
        weight_NK.stride(0),
        grouping.weight_step,
        grouping.bias_step,
        x_SK if grouping.table is None else grouping.table,
        inputs,
        grouping.rows,
        -(-grouping.rows // tile.rows),
        warps=tile.warps,
        stages=tile.stages,
        PARTS=len(weights),
        TABLED=grouping.table is not None,
        ALIGNED=grouping.is_aligned,
        BIASED=bias_N is not None,
        WIDENED=_is_widened(x_SK, weight_NK),
        EVEN=inputs % tile.depth == 0,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        DEPTH=tile.depth,
    )


def _are_alike(weights: Sequence[Weights]) -> bool:
    first_NK, first_N = weights[0]
    return all(
        weight_NK.stride() == first_NK.stride()
        and weight_NK.dtype is first_NK.dtype
        and (bias_N is None) == (first_N is None)
        and (bias_N is None or first_N is None or bias_N.dtype is first_N.dtype)
        for weight_NK, bias_N in weights
    )


def _in_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()


def _step(tensors: Sequence[Tensor]) -> int | None:
    """How far apart equally spaced tensors are, in elements; None if they are not."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    step = addresses[1] - addresses[0] if len(addresses) > 1 else 0
    is_even = all(b - a == step for a, b in pairwise(addresses))
    return step // tensors[0].itemsize if is_even and step % tensors[0].itemsize == 0 else None


def _table(
    rows: int,
    weights_NK: Sequence[Tensor],
    counts: Sequence[int],
    biases_N: Sequence[Tensor] | None,
) -> Tensor:
    """Of each tile the addresses of weight and bias, its first row and how many are left there."""
    entries: list[tuple[int, int, int, int]] = []
    first = 0
    for index, (weight_NK, count) in enumerate(zip(weights_NK, counts, strict=True)):
        bias = 0 if biases_N is None else biases_N[index].data_ptr()
        entries += [
            (weight_NK.data_ptr(), bias, first + begin, count - begin)
            for begin in range(0, count, rows)
        ]
        first += count
    return torch.tensor(entries, dtype=torch.int64)


def _is_widened(x: Tensor, weight: Tensor) -> bool:
    return x.dtype is not weight.dtype or x.dtype is torch.float32


def _tile_for(rows: int, outputs: int, x: Tensor, weight: Tensor) -> Tile:
    is_widened = _is_widened(x, weight)
    narrow: Sequence[Tile] = _NARROW32 if is_widened else _NARROW
    broad: Sequence[Tile] = _BROAD32 if is_widened else _BROAD
    usable = [tile for tile in narrow if rows <= tile.rows]
    if len(usable) == len(narrow) > 1 and outputs >= _WIDE_OUTPUTS:
        usable = usable[1:]
    for tile in [*usable, *broad, *reversed(narrow)]:
        if tile == narrow[0] or _is_proven(tile, narrow[0], x.dtype, weight.dtype, x.device):
            return tile
    return narrow[0]


@functools.cache
def _is_proven(
    tile: Tile, smallest: Tile, x: torch.dtype, weight: torch.dtype, device: torch.device
) -> bool:
    """Whether two tiles give the same bits on numbers of very different sizes."""
    draw = torch.Generator().manual_seed(0)
    x_TK, weight_NK = (
        torch.randn(shape, generator=draw) * torch.randn(shape, generator=draw).mul(3).exp2()
        for shape in ((tile.rows + 3, _PROBE), (tile.outputs + 5, _PROBE))
    )
    x_TK, weight_NK = x_TK.to(device, x), weight_NK.to(device, weight)
    results = []
    for each in (tile, smallest):
        out_TN = x_TK.new_empty((len(x_TK), len(weight_NK)), dtype=torch.float32)
        grouping = _Grouping(len(x_TK), -(-len(x_TK) // each.rows))
        _launch(each, x_TK, [(weight_NK, None)], [out_TN], grouping)
        results.append(out_TN)
    return torch.equal(*results)
