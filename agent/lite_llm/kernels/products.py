"""Compiled products with weights.

A sum over K is cut into blocks of 512, each a dot product in the order of tiles.py, and the blocks
are added in ascending order to zero; the bias comes last. Few rows read the weights where they
lie; many rows read them from a panel, widened once and small enough for the cache. Both walk in
the same order.
"""

from __future__ import annotations

from lite_llm.kernels.lanes import put, spread, take
from lite_llm.kernels.threads import Kernel
from lite_llm.kernels.tiles import dot_1x1, dot_1x2, dot_1x4, dot_2x2, dot_2x4, dot_3x2
from lite_llm.kernels.vector import (
    FLOAT32,
    LANES,
    inlined,
    unpack_3,
    unpack_5,
    unpack_6,
    unpack_7,
    word,
)

BLOCK = 512
"""Elements of K in a block: part of the order of every sum, never to be tuned."""
DIRECT_ROWS = 48
"""Up to so many rows read the weights where they lie."""
PANEL_ROWS = 192
"""Rows of a task; their sums stay in the second-level cache."""
PANEL_OUTPUTS = 64
SHORT_ROW = 4096
"""Bytes of a weight's row, up to which one row of x takes the outputs one by one."""
PIECE_WORDS = 8
"""Of a piece, rows that meet one weight: the weight, its stride, its bias, the first row, how many,
outputs, where the first row's outputs go, and their stride."""
CACHED_OUTPUTS = 16
CACHED_ROWS = 9
"""Rows of x that stay in the first-level cache while the outputs of a panel pass."""


@inlined
def size_of(kind: int) -> int:
    """Bytes of one number."""
    return 4 if kind == FLOAT32 else 2


@inlined
def widen(source: int, kind: int, count: int, target: int) -> None:
    """Copy numbers as float32, and zeros up to whole lanes."""
    for i in range(0, count, LANES):
        put(take(source + i * size_of(kind), kind, count - i), target + 4 * i, FLOAT32, LANES)


@inlined
def clear(target: int, count: int) -> None:
    """Set float32 to zero, a multiple of sixteen of them."""
    for i in range(0, count, LANES):
        put(spread(0.0), target + 4 * i, FLOAT32, LANES)


@inlined
def dots(
    x: int,
    x_stride: int,
    rows: int,
    w: int,
    w_stride: int,
    kind: int,
    columns: int,
    count: int,
    out: int,
    out_stride: int,
    ahead: int,
) -> None:
    """``out[r, n] += x[r] . w[n]``: of any number of rows and columns, in tiles."""
    n = 0
    while n < columns:
        wn, to = w + n * w_stride, out + 4 * n
        step = 2
        if columns - n == 1:
            step = 1
            for r in range(rows):
                dot_1x1(x + r * x_stride, 0, wn, 0, kind, count, to + r * out_stride, 0, ahead)
        elif rows == 1 and columns - n >= 4:
            step = 4
            dot_1x4(x, 0, wn, w_stride, kind, count, to, 0, ahead)
        elif rows == 2 and columns - n >= 4 and count % LANES == 0:
            step = 4
            dot_2x4(x, x_stride, wn, w_stride, kind, count, to, out_stride, ahead)
        else:
            r = 0
            while r < rows:
                xr, tor = x + r * x_stride, to + r * out_stride
                if rows - r >= 3:
                    dot_3x2(xr, x_stride, wn, w_stride, kind, count, tor, out_stride, ahead)
                elif rows - r == 2:
                    dot_2x2(xr, x_stride, wn, w_stride, kind, count, tor, out_stride, ahead)
                else:
                    dot_1x2(xr, 0, wn, w_stride, kind, count, tor, 0, ahead)
                r += 3
        n += step


def _pack(arguments: int, worker: int, task: int) -> None:
    x, stride, kind, inputs, rows, packed, rows_a_task = unpack_7(arguments)
    for r in range(task * rows_a_task, min(rows, (task + 1) * rows_a_task)):
        for k in range(0, inputs, BLOCK):
            to = packed + 4 * (k * rows + r * BLOCK)
            widen(x + r * stride + k * size_of(kind), kind, min(BLOCK, inputs - k), to)


def _multiply(arguments: int, worker: int, task: int) -> None:
    packed, all_rows, inputs, kind, out_kind, bias_kind = unpack_6(arguments)
    pieces, blocks, width, scratch, scratch_bytes = unpack_5(arguments + 8 * 6)
    row, row_kind = word(arguments, 11), word(arguments, 12)
    piece = pieces + 8 * PIECE_WORDS * (task // blocks)
    weight, w_stride, bias, first, rows = unpack_5(piece)
    outputs, out, out_stride = unpack_3(piece + 8 * 5)
    n0 = task % blocks * width
    columns = min(width, outputs - n0)
    if columns <= 0:
        return  # another piece is wider
    weight += n0 * w_stride
    sums = scratch + worker * scratch_bytes
    panel = sums + 4 * PANEL_ROWS * PANEL_OUTPUTS
    if packed == 0:
        # The one row there is: its blocks lie side by side already, but for the widening.
        packed = row
        if row_kind != FLOAT32 or inputs % LANES != 0:
            packed = panel + 4 * PANEL_OUTPUTS * BLOCK
            widen(row, row_kind, inputs, packed)
    clear(sums, rows * PANEL_OUTPUTS)
    if rows <= DIRECT_ROWS:
        # Rows of x are taken so many at a time as stay in the first-level cache, and outputs
        # so many as then stay in the second.
        step, ahead = (2 if rows <= CACHED_ROWS else CACHED_OUTPUTS), 2 * w_stride
        if rows == 1 and w_stride <= SHORT_ROW:
            step, ahead = 1, 2048  # one stream: several short ones would each begin too often
        elif rows == 2:
            step, ahead = 4, 4 * w_stride
        elif rows == 1:
            step, ahead = 4, 0  # streams long enough for the processor to fetch ahead itself
        for n in range(0, columns, step):
            for k in range(0, inputs, BLOCK):
                for r in range(0, rows, CACHED_ROWS):
                    dots(
                        packed + 4 * (k * all_rows + (first + r) * BLOCK),
                        4 * BLOCK,
                        min(CACHED_ROWS, rows - r),
                        weight + n * w_stride + k * size_of(kind),
                        w_stride,
                        kind,
                        min(step, columns - n),
                        min(BLOCK, inputs - k),
                        sums + 4 * (r * PANEL_OUTPUTS + n),
                        4 * PANEL_OUTPUTS,
                        ahead,
                    )
    else:
        for k in range(0, inputs, BLOCK):
            count = min(BLOCK, inputs - k)
            for n in range(columns):
                widen(weight + n * w_stride + k * size_of(kind), kind, count, panel + 4 * n * BLOCK)
            for r in range(0, rows, CACHED_ROWS):
                dots(
                    packed + 4 * (k * all_rows + (first + r) * BLOCK),
                    4 * BLOCK,
                    min(CACHED_ROWS, rows - r),
                    panel,
                    4 * BLOCK,
                    FLOAT32,
                    columns,
                    count,
                    sums + 4 * r * PANEL_OUTPUTS,
                    4 * PANEL_OUTPUTS,
                    0,
                )
    for r in range(rows):
        line = sums + 4 * r * PANEL_OUTPUTS
        to = out + (first + r) * out_stride + n0 * size_of(out_kind)
        for n in range(0, columns, LANES):
            y = take(line + 4 * n, FLOAT32, LANES)
            if bias != 0:
                y = y + take(bias + (n0 + n) * size_of(bias_kind), bias_kind, columns - n)
            put(y, to + n * size_of(out_kind), out_kind, columns - n)


SCRATCH = 4 * (PANEL_ROWS * PANEL_OUTPUTS + PANEL_OUTPUTS * BLOCK)
"""Bytes that each worker of ``multiply`` needs, before those of a single row."""
pack, multiply = Kernel(_pack), Kernel(_multiply)
