"""Sixteen float32 as one value of numba code, so that elementwise formulas read like formulas.

Each operation rounds every lane by itself, as IEEE 754 says; only ``fma`` fuses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba.core import types
from numba.extending import models, overload, register_model

from lite_llm.kernels.vector import (
    FLOAT,
    INT32,
    INT64,
    LANES,
    SIZES,
    VECTOR,
    ZEROS,
    Builder,
    Value,
    cgutils,
    copy_numbers,
    expression,
    fused,
    load,
    narrow,
    splat,
    total,
)

_INTEGERS = ir.VectorType(INT32, LANES)


class _LanesType(types.Type):
    pass


_lanes: Any = _LanesType(name="Lanes")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)  # type: ignore[no-untyped-call]  # untyped numba


def _by_kind(builder: Builder, kind: Value, emit: Callable[[int], None]) -> None:
    for stored in SIZES:
        with builder.if_then(builder.icmp_unsigned("==", kind, ir.Constant(INT64, stored))):
            emit(stored)


def _take(builder: Builder, address: Value, kind: Value, count: Value) -> Value:
    result = cgutils.alloca_once(builder, VECTOR)
    buffer = cgutils.alloca_once_value(builder, ZEROS)
    source = cgutils.alloca_once_value(builder, address)
    with builder.if_then(builder.icmp_signed("<", count, ir.Constant(INT64, LANES))):
        builder.store(ZEROS, buffer)
        copy_numbers(builder, builder.ptrtoint(buffer, INT64), address, count, kind)
        builder.store(builder.ptrtoint(buffer, INT64), source)
    begin = builder.load(source)
    _by_kind(builder, kind, lambda stored: builder.store(load(builder, begin, stored), result))
    return builder.load(result)


def _put(builder: Builder, value: Value, address: Value, kind: Value, count: Value) -> None:
    buffer = cgutils.alloca_once(builder, VECTOR)
    target = cgutils.alloca_once_value(builder, address)
    part = builder.icmp_signed("<", count, ir.Constant(INT64, LANES))
    with builder.if_then(part):
        builder.store(builder.ptrtoint(buffer, INT64), target)
    begin = builder.load(target)
    _by_kind(builder, kind, lambda stored: narrow(builder, value, begin, stored))
    with builder.if_then(part):
        copy_numbers(builder, address, begin, count, kind)


def _rounded(builder: Builder, value: Value, kind: Value) -> Value:
    """The value as it would be read back after having been stored."""
    result = cgutils.alloca_once_value(builder, value)
    buffer = cgutils.alloca_once(builder, VECTOR)
    base = builder.ptrtoint(buffer, INT64)

    def through(stored: int) -> None:
        narrow(builder, value, base, stored)
        builder.store(load(builder, base, stored), result)

    _by_kind(builder, kind, through)
    return builder.load(result)


def _largest(builder: Builder, value: Value) -> Value:
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        lower, upper = (
            builder.shuffle_vector(
                value,
                ir.Constant(value.type, ir.Undefined),
                ir.Constant(ir.VectorType(INT32, lanes), list(range(begin, begin + lanes))),
            )
            for begin in (0, lanes)
        )
        value = _greater(builder, lower, upper)
    return builder.extract_element(value, ir.Constant(INT32, 0))


def _greater(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _absolute(builder: Builder, value: Value) -> Value:
    mask = ir.Constant(_INTEGERS, [0x7FFFFFFF] * LANES)
    return builder.bitcast(builder.and_(builder.bitcast(value, _INTEGERS), mask), VECTOR)


def _with_sign(builder: Builder, value: Value, sign: Value) -> Value:
    mask = ir.Constant(_INTEGERS, [0x80000000] * LANES)
    bits = builder.and_(builder.bitcast(sign, _INTEGERS), mask)
    return builder.bitcast(builder.or_(builder.bitcast(value, _INTEGERS), bits), VECTOR)


def _times_power(builder: Builder, value: Value, shifted: Value) -> Value:
    """In two steps, so that the power may leave float32's range and the product need not."""

    def power(exponent: Value) -> Value:
        biased = builder.add(exponent, ir.Constant(_INTEGERS, [127] * LANES))
        return builder.bitcast(builder.shl(biased, ir.Constant(_INTEGERS, [23] * LANES)), VECTOR)

    origin = ir.Constant(_INTEGERS, [0x4B400000] * LANES)
    exponent = builder.sub(builder.bitcast(shifted, _INTEGERS), origin)
    half = builder.ashr(exponent, ir.Constant(_INTEGERS, [1] * LANES))
    return builder.fmul(builder.fmul(value, power(half)), power(builder.sub(exponent, half)))


def _within(builder: Builder, value: Value, begin: Value, end: Value, other: Value) -> Value:
    lanes = ir.Constant(_INTEGERS, list(range(LANES)))

    def limit(bound: Value) -> Value:
        narrow_bound = builder.trunc(bound, INT32)
        undefined = ir.Constant(_INTEGERS, ir.Undefined)
        first = builder.insert_element(undefined, narrow_bound, ir.Constant(INT32, 0))
        return builder.shuffle_vector(first, undefined, ir.Constant(_INTEGERS, [0] * LANES))

    inside = builder.and_(
        builder.icmp_signed(">=", lanes, limit(begin)), builder.icmp_signed("<", lanes, limit(end))
    )
    return builder.select(inside, value, splat(builder, other))


_int, _f32 = types.intp, types.float32

take = expression(_lanes, _take, _int, _int, _int)
"""``take(address, kind, count)``: up to sixteen numbers, zeros behind them."""
put = expression(types.none, _put, _lanes, _int, _int, _int)
"""``put(lanes, address, kind, count)``: up to sixteen numbers, rounded to ``kind``."""
rounded = expression(_lanes, _rounded, _lanes, _int)
"""``rounded(lanes, kind)``: what ``take`` would read after ``put``."""
spread = expression(_lanes, splat, _f32)
"""One number in all lanes."""
within = expression(_lanes, _within, _lanes, _int, _int, _f32)
"""``within(lanes, begin, end, other)``: lanes ``begin`` to ``end - 1``, elsewhere ``other``."""
sum_of = expression(_f32, total, _lanes)
"""The lanes, added as a tree."""
largest = expression(_f32, _largest, _lanes)
"""The greatest lane; NaNs may be overlooked."""
greater = expression(_lanes, _greater, _lanes, _lanes)
"""``greater(a, b)``: b where it is more than a, else a: a NaN of a stays, one of b goes."""
smaller = expression(
    _lanes, lambda b, x, y: b.select(b.fcmp_ordered("<", y, x), y, x), _lanes, _lanes
)
"""``smaller(a, b)``: b where it is less than a, else a."""
where_less = expression(
    _lanes,
    lambda b, x, y, yes, no: b.select(b.fcmp_ordered("<", x, y), yes, no),
    *([_lanes] * 4),
)
"""``where_less(a, b, yes, no)``: yes where a < b, else no."""
absolute = expression(_lanes, _absolute, _lanes)
with_sign = expression(_lanes, _with_sign, _lanes, _lanes)
"""``with_sign(a, b)``: a, which is not negative, with b's sign."""
times_power = expression(_lanes, _times_power, _lanes, _lanes)
"""``times_power(a, 1.5 * 2**23 + n)``: ``a * 2**n`` for whole n from -252 to 254."""
fma = expression(_lanes, fused, _lanes, _lanes, _lanes)
"""``a * b + c``, rounded once."""
root = expression(
    _f32,
    lambda b, x: b.call(
        cgutils.get_or_insert_function(b.module, ir.FunctionType(FLOAT, [FLOAT]), "llvm.sqrt.f32"),
        [x],
    ),
    _f32,
)
"""The square root of one number, correctly rounded."""

_add = expression(_lanes, lambda b, x, y: b.fadd(x, y), _lanes, _lanes)
_sub = expression(_lanes, lambda b, x, y: b.fsub(x, y), _lanes, _lanes)
_mul = expression(_lanes, lambda b, x, y: b.fmul(x, y), _lanes, _lanes)
_div = expression(_lanes, lambda b, x, y: b.fdiv(x, y), _lanes, _lanes)


def _operator(symbol: Any, function: Any) -> None:
    # Without annotations: numba compares the two signatures.
    @overload(symbol)
    def typing(a, b):  # type: ignore[no-untyped-def]  # for the reason above
        if a is _lanes and b is _lanes:
            return lambda a, b: function(a, b)
        return None


for _symbol, _vector_operation in (
    (operator.add, _add),
    (operator.sub, _sub),
    (operator.mul, _mul),
    (operator.truediv, _div),
):
    _operator(_symbol, _vector_operation)
