"""Compiled loops over rows: normalisation, rotation, gated activations, sums, softmax, storing.

Where numbers are narrower than float32, each step of a formula is rounded as often as the
function's docstring says. Sums over a row add lane l of sixteen in ascending order, with blocks
of 1,024 elements added in turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lite_llm.kernels.functions import erf, exp, log, tanh
from lite_llm.kernels.lanes import (
    fma,
    greater,
    largest,
    put,
    root,
    rounded,
    spread,
    sum_of,
    take,
    within,
)
from lite_llm.kernels.products import size_of
from lite_llm.kernels.threads import Kernel
from lite_llm.kernels.vector import (
    FLOAT32,
    LANES,
    half_word,
    inlined,
    load_float32,
    unpack_4,
    unpack_5,
    unpack_6,
    unpack_7,
    word,
)

SUM_BLOCK = 1024
"""Elements added before their sum joins the row's: part of the order, never to be tuned."""
SILU, GELU, GELU_TANH = 0, 1, 2


def _normalise(arguments: int, worker: int, task: int) -> None:
    x, outer_stride, inner_stride, inner, kind = unpack_5(arguments)
    size, weight, weight_kind, plus_one = unpack_4(arguments + 8 * 5)
    out, out_kind, epsilon = (
        word(arguments, 9),
        word(arguments, 10),
        load_float32(arguments + 8 * 11),
    )
    rows, chunk = word(arguments, 12), word(arguments, 13)
    step = size_of(kind)
    for row in range(task * chunk, min(rows, (task + 1) * chunk)):
        begin = x + row // inner * outer_stride + row % inner * inner_stride
        total = spread(0.0)
        squares = np.float32(0.0)
        for block in range(0, size, SUM_BLOCK):
            total = spread(0.0)
            for i in range(block, min(size, block + SUM_BLOCK), LANES):
                lanes = take(begin + i * step, kind, size - i)
                total = fma(lanes, lanes, total)
            squares += sum_of(total)
        factor = spread(1.0) / spread(root(largest(spread(squares) / spread(size)) + epsilon))
        to = out + row * size * size_of(out_kind)
        for i in range(0, size, LANES):
            y = take(begin + i * step, kind, size - i) * factor
            if weight != 0:
                lanes = take(weight + i * size_of(weight_kind), weight_kind, size - i)
                y = y * (spread(1.0) + lanes) if plus_one != 0 else rounded(y, kind) * lanes
            put(y, to + i * size_of(out_kind), out_kind, size - i)


def _rotate(arguments: int, worker: int, task: int) -> None:
    x, row_stride, head_stride, heads, size, kind = unpack_6(arguments)
    cosines, sines, turn_stride, half, out, rows, chunk = unpack_7(arguments + 8 * 6)
    step = size_of(kind)
    for row in range(task * chunk, min(rows, (task + 1) * chunk)):
        cosine, sine = cosines + row * turn_stride, sines + row * turn_stride
        for head in range(heads):
            begin = x + row * row_stride + head * head_stride
            to = out + (row * heads + head) * size * step
            for i in range(0, half, LANES):
                count = half - i
                low, high = (
                    take(begin + i * step, kind, count),
                    take(begin + (half + i) * step, kind, count),
                )
                for side in range(2):
                    at = side * half + i
                    c = rounded(take(cosine + 4 * at, FLOAT32, count), kind)
                    s = rounded(take(sine + 4 * at, FLOAT32, count), kind)
                    if side == 0:
                        y = rounded(low * c, kind) - rounded(high * s, kind)
                    else:
                        y = rounded(high * c, kind) + rounded(low * s, kind)
                    put(y, to + at * step, kind, count)
            for i in range(2 * half, size, LANES):
                put(take(begin + i * step, kind, size - i), to + i * step, kind, size - i)


@inlined
def _activate(x: Any, activation: int) -> Any:
    if activation == SILU:
        return x / (spread(1.0) + exp(spread(0.0) - x))
    if activation == GELU:
        return spread(0.5) * x * (spread(1.0) + erf(x * spread(0.70710678118654752)))
    inner = spread(0.79788456080286536) * fma(spread(0.044715) * x * x, x, x)
    return spread(0.5) * x * (spread(1.0) + tanh(inner))


def _gate(arguments: int, worker: int, task: int) -> None:
    gate, gate_stride, up, up_stride, out = unpack_5(arguments)
    size, kind, activation, rows, chunk = unpack_5(arguments + 8 * 5)
    step = size_of(kind)
    for row in range(task * chunk, min(rows, (task + 1) * chunk)):
        for i in range(0, size, LANES):
            x = take(gate + row * gate_stride + i * step, kind, size - i)
            y = rounded(_activate(x, activation), kind)
            y = y * take(up + row * up_stride + i * step, kind, size - i)
            put(y, out + (row * size + i) * step, kind, size - i)


def _add(arguments: int, worker: int, task: int) -> None:
    x, x_stride, y, y_stride, out, size, kind = unpack_7(arguments)
    scale = spread(load_float32(arguments + 8 * 7))
    rows, chunk = word(arguments, 8), word(arguments, 9)
    step = size_of(kind)
    for row in range(task * chunk, min(rows, (task + 1) * chunk)):
        for i in range(0, size, LANES):
            added = take(y + row * y_stride + i * step, kind, size - i) * scale
            total = take(x + row * x_stride + i * step, kind, size - i) + rounded(added, kind)
            put(total, out + (row * size + i) * step, kind, size - i)


def _soften(arguments: int, worker: int, task: int) -> None:
    size, logarithm = word(arguments, 3), word(arguments, 4)
    x = word(arguments, 0) + task * word(arguments, 1)
    out = word(arguments, 2) + task * size * 4
    least = -float("inf")
    best = spread(least)
    for i in range(0, size, LANES):
        best = greater(best, within(take(x + 4 * i, FLOAT32, size - i), 0, size - i, least))
    top = spread(largest(best))
    mass = np.float32(0.0)
    for block in range(0, size, SUM_BLOCK):
        total = spread(0.0)
        for i in range(block, min(size, block + SUM_BLOCK), LANES):
            part = exp(take(x + 4 * i, FLOAT32, size - i) - top)
            part = within(part, 0, size - i, 0.0)
            total = total + part
            if logarithm == 0:
                put(part, out + 4 * i, FLOAT32, size - i)
        mass += sum_of(total)
    shift = spread(log(mass))
    for i in range(0, size, LANES):
        if logarithm == 0:
            y = take(out + 4 * i, FLOAT32, size - i) / spread(mass)
        else:
            y = take(x + 4 * i, FLOAT32, size - i) - top - shift
        put(y, out + 4 * i, FLOAT32, size - i)


def _store(arguments: int, worker: int, task: int) -> None:
    x, row_stride, head_stride, kind, heads, rows, chunk = unpack_7(arguments)
    table = word(arguments, 7)
    pool, page_stride, pool_head, pool_slot, pool_kind, slots, size = unpack_7(table)
    sequences, positions, pages, pages_row = unpack_4(table + 8 * 7)
    for row in range(task * chunk, min(rows, (task + 1) * chunk)):
        position = half_word(positions, row)
        page = half_word(pages + half_word(sequences, row) * pages_row, position // slots)
        for head in range(heads):
            begin = x + row * row_stride + head * head_stride
            to = pool + page * page_stride + head * pool_head + position % slots * pool_slot
            for i in range(0, size, LANES):
                lanes = take(begin + i * size_of(kind), kind, size - i)
                put(lanes, to + i * size_of(pool_kind), pool_kind, size - i)


normalise, rotate, gate, add = Kernel(_normalise), Kernel(_rotate), Kernel(_gate), Kernel(_add)
soften, store = Kernel(_soften), Kernel(_store)
