"""The inner tiles: several rows by several columns at once, so that sums stay in registers.

A dot product has one order, whatever the tile: lane l of sixteen adds the products of elements
l, l + 16, l + 32, ... with one rounding each (FMA), and the lanes are added as a tree.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba.core import types

from lite_llm.kernels.vector import (
    FLOAT32,
    INT64,
    LANES,
    SIZES,
    VECTOR,
    ZEROS,
    Builder,
    Value,
    at,
    cgutils,
    expression,
    fused,
    load,
    store,
    total,
)


def _dot_tile(rows: int, columns: int) -> Any:
    """``out[r, n] += x[r] . w[n]``, over ``count`` elements, of ``rows`` by ``columns`` outputs.

    x is float32, padded with zeros to whole lanes; w is stored as ``kind`` says, and its lanes
    behind the end count as zeros. Strides are in bytes.
    """

    def emit(
        builder: Builder,
        x: Value,
        x_stride: Value,
        w: Value,
        w_stride: Value,
        kind: Value,
        count: Value,
        out: Value,
        out_stride: Value,
    ) -> None:
        sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(columns)] for _ in range(rows)]
        ends = [cgutils.alloca_once(builder, VECTOR) for _ in range(columns)]
        for line in sums:
            for place in line:
                builder.store(ZEROS, place)
        whole = builder.udiv(count, ir.Constant(INT64, LANES))
        rest = builder.urem(count, ir.Constant(INT64, LANES))
        ragged = builder.icmp_unsigned("!=", rest, ir.Constant(INT64, 0))

        def add(index: Value, w_lanes: list[Value]) -> None:
            for row, line in enumerate(sums):
                begin = at(builder, at(builder, x, x_stride, row), 4 * LANES, index)
                x_lanes = load(builder, begin, FLOAT32)
                for place, lanes in zip(line, w_lanes, strict=True):
                    builder.store(fused(builder, x_lanes, lanes, builder.load(place)), place)

        starts = [at(builder, w, w_stride, column) for column in range(columns)]
        for stored, size in SIZES.items():
            with builder.if_then(builder.icmp_unsigned("==", kind, ir.Constant(INT64, stored))):
                with cgutils.for_range(builder, whole) as loop:
                    places = [at(builder, start, size * LANES, loop.index) for start in starts]
                    add(loop.index, [load(builder, place, stored) for place in places])
                with builder.if_then(ragged):
                    for start, end in zip(starts, ends, strict=True):
                        builder.store(ZEROS, end)
                        source = at(builder, start, size * LANES, whole)
                        with cgutils.for_range(builder, rest) as loop:
                            element = load(
                                builder, at(builder, source, size, loop.index), stored, 1
                            )
                            base = builder.ptrtoint(end, INT64)
                            store(builder, element, at(builder, base, 4, loop.index))
        with builder.if_then(ragged):
            add(whole, [builder.load(end) for end in ends])
        for row, line in enumerate(sums):
            for column, place in enumerate(line):
                target = at(builder, at(builder, out, out_stride, row), 4, column)
                before = load(builder, target, FLOAT32, 1)
                store(builder, builder.fadd(before, total(builder, builder.load(place))), target)

    return expression(types.none, emit, *([types.intp] * 8))


dot_1x1, dot_1x2, dot_1x4 = _dot_tile(1, 1), _dot_tile(1, 2), _dot_tile(1, 4)
dot_2x2, dot_3x2 = _dot_tile(2, 2), _dot_tile(3, 2)
