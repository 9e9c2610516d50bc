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
    HALF_VECTOR,
    HALF_ZEROS,
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
    totals,
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


def _half_tile(rows: int) -> Any:
    """As a tile of ``rows`` by four columns, but eight lanes after the other eight.

    Twice as many sums stay in registers, so that what is loaded is used more often; and four sums
    leave their lanes together. Elements must be whole lanes: no bit differs.
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
        whole = builder.udiv(count, ir.Constant(INT64, LANES))
        starts = [at(builder, w, w_stride, column) for column in range(4)]
        lines = [at(builder, x, x_stride, row) for row in range(rows)]
        halves = []
        for half in range(2):
            sums = [
                [cgutils.alloca_once(builder, HALF_VECTOR) for _ in starts] for _ in range(rows)
            ]
            for place in (place for line in sums for place in line):
                builder.store(HALF_ZEROS, place)
            for stored, size in SIZES.items():
                is_kind = builder.icmp_unsigned("==", kind, ir.Constant(INT64, stored))
                with builder.if_then(is_kind), cgutils.for_range(builder, whole) as loop:
                    x_lanes = [
                        load(
                            builder,
                            at(builder, at(builder, line, 32, half), 4 * LANES, loop.index),
                            FLOAT32,
                            LANES // 2,
                        )
                        for line in lines
                    ]
                    for column, start in enumerate(starts):
                        place = at(builder, start, size * LANES, loop.index)
                        if half == 0:
                            prefetch(builder, builder.add(place, ahead))
                        from_half = at(builder, place, size * LANES // 2, half)
                        lanes = load(builder, from_half, stored, LANES // 2)
                        for row in range(rows):
                            to = sums[row][column]
                            product = fused(builder, x_lanes[row], lanes, builder.load(to))
                            builder.store(product, to)
            halves.append(sums)
        for row, (lower, upper) in enumerate(zip(*halves, strict=True)):
            both = [
                builder.fadd(builder.load(low), builder.load(high))
                for low, high in zip(lower, upper, strict=True)
            ]
            target = at(builder, out, out_stride, row)
            before = load(builder, target, FLOAT32, 4)
            store(builder, builder.fadd(before, totals(builder, both)), target)

    return expression(types.none, emit, *([types.intp] * 9))


def _mix_tile(rows: int, columns: int) -> Any:
    """``out[r] += weight[r, 0] * x[0] + weight[r, 1] * x[1] + ...``, of ``count`` lines of x.

    Each product is added in ascending order with one rounding. Weights and sums are float32, x is
    stored as ``kind`` says; a line is ``columns`` times sixteen wide. Strides are in bytes.
    """

    def emit(
        builder: Builder,
        weights: Value,
        weights_stride: Value,
        x: Value,
        x_stride: Value,
        kind: Value,
        count: Value,
        out: Value,
        out_stride: Value,
        ahead: Value,
    ) -> None:
        targets = [
            [at(builder, at(builder, out, out_stride, row), 4 * LANES, c) for c in range(columns)]
            for row in range(rows)
        ]
        sums = [
            [cgutils.alloca_once_value(builder, load(builder, target, FLOAT32)) for target in line]
            for line in targets
        ]
        for stored, size in SIZES.items():
            is_kind = builder.icmp_unsigned("==", kind, ir.Constant(INT64, stored))
            with builder.if_then(is_kind), cgutils.for_range(builder, count) as loop:
                begin = at(builder, x, x_stride, loop.index)
                places = [at(builder, begin, size * LANES, c) for c in range(columns)]
                for place in places:
                    prefetch(builder, builder.add(place, ahead))
                lines = [load(builder, place, stored) for place in places]
                for row, line in enumerate(sums):
                    own = at(builder, at(builder, weights, weights_stride, row), 4, loop.index)
                    weight = splat(builder, load(builder, own, FLOAT32, 1))
                    for place, lanes in zip(line, lines, strict=True):
                        builder.store(fused(builder, weight, lanes, builder.load(place)), place)
        for line, places in zip(targets, sums, strict=True):
            for target, place in zip(line, places, strict=True):
                store(builder, builder.load(place), target)

    return expression(types.none, emit, *([types.intp] * 9))


dot_1x1, dot_1x2, dot_1x4 = _dot_tile(1, 1), _dot_tile(1, 2), _dot_tile(1, 4)
dot_2x2, dot_3x2 = _dot_tile(2, 2), _dot_tile(3, 2)
dot_2x4 = _half_tile(2)
mix_1x2, mix_2x2, mix_3x2 = _mix_tile(1, 2), _mix_tile(2, 2), _mix_tile(3, 2)
