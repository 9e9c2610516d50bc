"""Loops over rows on a GPU: normalisation, rotation, gated activations, softmax.

Each step of a formula is rounded as often as in rowwise.py. A program sees whole rows, so that
nothing that is added up depends on how many there are.

Legend: T rows (any leading dimensions), D normalised, H heads, C dimensions of a head, R of them
turned, F inner size, V vocabulary, X elements of a block.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from lite_llm.kernels import rowwise
from lite_llm.kernels.triton_launch import inlined, kernel, padded

_SILU, _GELU = tl.constexpr(rowwise.SILU), tl.constexpr(rowwise.GELU)
_VOCABULARY_BLOCK = 4096
"""Entries added together before their sum joins the row's: part of the order."""
_GATE_BLOCK = 1024


@inlined
def rounded(x: tl.tensor, like: tl.tensor) -> tl.tensor:
    """To what ``like`` points at, and back to float32."""
    return x.to(like.dtype.element_ty).to(tl.float32)


@inlined
def tanh(x: tl.tensor) -> tl.tensor:
    """Without cancellation for large x; for small x, to a few units of 1e-7."""
    power = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - power) / (1.0 + power)
    return tl.where(x < 0, -size, size)


@kernel(anywhere=("x", "outer_stride", "inner_stride", "weight", "out"))
def _normalise(
    x: tl.tensor,
    outer_stride: tl.tensor,
    inner_stride: tl.tensor,
    inner: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    epsilon: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PLUS_ONE: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at_D = tl.arange(0, BLOCK)
    is_there_D = at_D < SIZE
    begin = x + row // inner * outer_stride + row % inner * inner_stride
    x_D = tl.load(begin + at_D, mask=is_there_D, other=0.0).to(tl.float32)
    mean = tl.sum(x_D * x_D, 0) / SIZE
    y_D = x_D * (1.0 / tl.sqrt_rn(mean + epsilon))
    if WEIGHTED:
        weight_D = tl.load(weight + at_D, mask=is_there_D, other=0.0).to(tl.float32)
        y_D = y_D * (1.0 + weight_D) if PLUS_ONE else rounded(y_D, x) * weight_D
    tl.store(out + row * SIZE + at_D, y_D.to(out.dtype.element_ty), mask=is_there_D)


def rms_norm(x_TD: Tensor, weight_D: Tensor | None, epsilon: float, *, plus_one: bool) -> Tensor:
    """Each row over the root of its mean square."""
    dtype, size = x_TD.dtype, x_TD.shape[-1]
    if weight_D is not None and not plus_one:
        dtype = torch.promote_types(dtype, weight_D.dtype)
    out_TD = x_TD.new_empty(x_TD.shape, dtype=dtype)
    if x_TD.dim() not in (2, 3) or x_TD.stride(-1) != 1:
        x_TD = x_TD.contiguous().view(-1, size)
    block = padded(size)
    _normalise.launch(
        (out_TD.numel() // max(1, size),),
        x_TD,
        x_TD.stride(0),
        x_TD.stride(1),
        x_TD.shape[1] if x_TD.dim() == 3 else 1,
        x_TD if weight_D is None else weight_D.contiguous(),
        out_TD,
        epsilon,
        SIZE=size,
        BLOCK=block,
        WEIGHTED=weight_D is not None,
        PLUS_ONE=plus_one,
        warps=8 if block > 4096 else 4,
    )
    return out_TD


@kernel()
def _rotate(
    x: tl.tensor,
    row_stride: tl.tensor,
    head_stride: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    turn_stride: tl.tensor,
    out: tl.tensor,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at_H1 = tl.arange(0, HEAD_BLOCK)[:, None]
    at_1R = tl.arange(0, HALF_BLOCK)[None, :]
    is_there_HR = (at_H1 < HEADS) & (at_1R < HALF)
    from_H1 = x + row * row_stride + at_H1 * head_stride
    to_H1 = out + (row * HEADS + at_H1) * SIZE
    low_HR = tl.load(from_H1 + at_1R, mask=is_there_HR, other=0.0).to(tl.float32)
    high_HR = tl.load(from_H1 + HALF + at_1R, mask=is_there_HR, other=0.0).to(tl.float32)
    turn_1R = row * turn_stride + at_1R
    is_turn_1R = at_1R < HALF
    cosine_1R = rounded(tl.load(cosine + turn_1R, mask=is_turn_1R, other=0.0), x)
    sine_1R = rounded(tl.load(sine + turn_1R, mask=is_turn_1R, other=0.0), x)
    turned_HR = rounded(low_HR * cosine_1R, x) - rounded(high_HR * sine_1R, x)
    tl.store(to_H1 + at_1R, turned_HR.to(out.dtype.element_ty), mask=is_there_HR)
    cosine_1R = rounded(tl.load(cosine + HALF + turn_1R, mask=is_turn_1R, other=0.0), x)
    sine_1R = rounded(tl.load(sine + HALF + turn_1R, mask=is_turn_1R, other=0.0), x)
    turned_HR = rounded(high_HR * cosine_1R, x) + rounded(low_HR * sine_1R, x)
    tl.store(to_H1 + HALF + at_1R, turned_HR.to(out.dtype.element_ty), mask=is_there_HR)
    if 2 * HALF < SIZE:
        at_1C = 2 * HALF + tl.arange(0, REST_BLOCK)[None, :]
        is_rest_HC = (at_H1 < HEADS) & (at_1C < SIZE)
        rest_HC = tl.load(from_H1 + at_1C, mask=is_rest_HC, other=0.0)
        tl.store(to_H1 + at_1C, rest_HC, mask=is_rest_HC)


def rotate(x_THC: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Dimension i of the first R turned with dimension i + R / 2."""
    x_THC = x_THC if x_THC.stride(2) == 1 else x_THC.contiguous()
    cos_TR, sin_TR = cos_TR.float().contiguous(), sin_TR.float().contiguous()
    rows, heads, size = x_THC.shape
    half = cos_TR.shape[1] // 2
    out_THC = x_THC.new_empty((rows, heads, size))
    _rotate.launch(
        (rows,),
        x_THC,
        x_THC.stride(0),
        x_THC.stride(1),
        cos_TR,
        sin_TR,
        2 * half,
        out_THC,
        HEADS=heads,
        SIZE=size,
        HALF=half,
        HEAD_BLOCK=padded(heads),
        HALF_BLOCK=padded(half),
        REST_BLOCK=padded(size - 2 * half),
    )
    return out_THC


@kernel()
def _gate(
    gate: tl.tensor,
    gate_stride: tl.tensor,
    up: tl.tensor,
    up_stride: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at_X = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there_X = at_X < size
    x_X = tl.load(gate + row * gate_stride + at_X, mask=is_there_X, other=0.0).to(tl.float32)
    up_X = tl.load(up + row * up_stride + at_X, mask=is_there_X, other=0.0).to(tl.float32)
    if ACTIVATION == _SILU:
        y_X = x_X / (1.0 + tl.exp(-x_X))
    elif ACTIVATION == _GELU:
        y_X = 0.5 * x_X * (1.0 + tl.erf(x_X * 0.70710678118654752))
    else:  # x / 2 * (1 + tanh(u)) is x * sigmoid(2 u)
        y_X = x_X / (1.0 + tl.exp(-1.5957691216057308 * (x_X + 0.044715 * x_X * x_X * x_X)))
    y_X = rounded(y_X, gate) * up_X
    tl.store(out + row * size + at_X, y_X.to(out.dtype.element_ty), mask=is_there_X)


def gated(gate_TF: Tensor, up_TF: Tensor, activation: int) -> Tensor:
    """``activation`` is one of rowwise.py's."""
    gate_TF, up_TF = (x if x.stride(1) == 1 else x.contiguous() for x in (gate_TF, up_TF))
    rows, size = gate_TF.shape
    out_TF = gate_TF.new_empty((rows, size))
    _gate.launch(
        (rows, -(-size // _GATE_BLOCK)),
        gate_TF,
        gate_TF.stride(0),
        up_TF,
        up_TF.stride(0),
        out_TF,
        size,
        ACTIVATION=activation,
        BLOCK=_GATE_BLOCK,
    )
    return out_TF


@kernel(free=("size",), anywhere=("x", "stride", "out"))
def _soften(
    x: tl.tensor,
    stride: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    LOGARITHM: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    out += row * size
    at_X = tl.arange(0, BLOCK)
    top_X = tl.full((BLOCK,), -float("inf"), tl.float32)
    for first in range(0, size, BLOCK):
        is_there_X = first + at_X < size
        part_X = tl.load(x + first + at_X, mask=is_there_X, other=-float("inf"))
        top_X = tl.maximum(top_X, part_X)
    top = tl.max(top_X, 0)
    mass = 0.0
    for first in range(0, size, BLOCK):
        is_there_X = first + at_X < size
        part_X = tl.load(x + first + at_X, mask=is_there_X, other=-float("inf"))
        mass += tl.sum(tl.exp(part_X - top), 0)
    for first in range(0, size, BLOCK):
        is_there_X = first + at_X < size
        part_X = tl.load(x + first + at_X, mask=is_there_X, other=-float("inf"))
        y_X = part_X - top - tl.log(mass) if LOGARITHM else tl.exp(part_X - top) / mass
        tl.store(out + first + at_X, y_X, mask=is_there_X)


def soften(x_RV: Tensor, *, logarithm: bool) -> Tensor:
    """Softmax, or its logarithm, of float32."""
    x_RV = x_RV if x_RV.stride(1) == 1 else x_RV.contiguous()
    rows, size = x_RV.shape
    out_RV = x_RV.new_empty((rows, size))
    _soften.launch(
        (rows,),
        x_RV,
        x_RV.stride(0),
        out_RV,
        size,
        LOGARITHM=logarithm,
        BLOCK=_VOCABULARY_BLOCK,
        warps=8,
    )
    return out_RV
