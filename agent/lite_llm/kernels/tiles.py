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
    copy_numbers,
    expression,
    fused,
    load,
    prefetch,
    splat,
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
        ahead: Value,
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
                    for place in places:
                        prefetch(builder, builder.add(place, ahead))
                    add(loop.index, [load(builder, place, stored) for place in places])
                with builder.if_then(ragged):
                    for start, end in zip(starts, ends, strict=True):
                        builder.store(ZEROS, end)
                        source = at(builder, start, size * LANES, whole)
                        copy_numbers(builder, builder.ptrtoint(end, INT64), source, rest, kind)
                    addresses = [builder.ptrtoint(end, INT64) for end in ends]
                    add(whole, [load(builder, address, stored) for address in addresses])
        for row, line in enumerate(sums):
            for column, place in enumerate(line):
                target = at(builder, at(builder, out, out_stride, row), 4, column)
                before = load(builder, target, FLOAT32, 1)
                store(builder, builder.fadd(before, total(builder, builder.load(place))), target)

    return expression(types.none, emit, *([types.intp] * 9))


def _mix_tile(rows: int, columns: int) -> Any:
    """``out[r] += weight[r, 0] * x[0] + weight[r, 1] * x[1] + ...``, of ``count`` lines of x.

    Each product is added in ascending order with one rounding. Everything is float32; a line is
    ``columns`` times sixteen wide. Strides are in bytes.
    """

    def emit(
        builder: Builder,
        weights: Value,
        weights_stride: Value,
        x: Value,
        x_stride: Value,
        count: Value,
        out: Value,
        out_stride: Value,
    ) -> None:
        targets = [
            [at(builder, at(builder, out, out_stride, row), 4 * LANES, c) for c in range(columns)]
            for row in range(rows)
        ]
        sums = [
            [cgutils.alloca_once_value(builder, load(builder, target, FLOAT32)) for target in line]
            for line in targets
        ]
        with cgutils.for_range(builder, count) as loop:
            begin = at(builder, x, x_stride, loop.index)
            lines = [
                load(builder, at(builder, begin, 4 * LANES, c), FLOAT32) for c in range(columns)
            ]
            for row, places in enumerate(sums):
                own = at(builder, at(builder, weights, weights_stride, row), 4, loop.index)
                weight = splat(builder, load(builder, own, FLOAT32, 1))
                for place, lanes in zip(places, lines, strict=True):
                    builder.store(fused(builder, weight, lanes, builder.load(place)), place)
        for line, places in zip(targets, sums, strict=True):
            for target, place in zip(line, places, strict=True):
                store(builder, builder.load(place), target)

    return expression(types.none, emit, *([types.intp] * 7))


dot_1x1, dot_1x2, dot_1x4 = _dot_tile(1, 1), _dot_tile(1, 2), _dot_tile(1, 4)
dot_2x2, dot_3x2 = _dot_tile(2, 2), _dot_tile(3, 2)
mix_1x2, mix_3x2 = _mix_tile(1, 2), _mix_tile(3, 2)
