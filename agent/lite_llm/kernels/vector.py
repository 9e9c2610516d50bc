"""Sixteen lanes at once, said to LLVM directly: what the loops of this room are made of.

LLVM may cut sixteen lanes into registers of four, eight or sixteen: no bit depends on it.
Addresses are integers, in bytes; a *kind* says how a number is stored.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, ParamSpec, TypeVar

import torch
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import njit
from numba.core import cgutils as untyped_cgutils
from numba.core import types
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")

LANES = 16
FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
SIZES = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2}

INT16, INT32, INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
HALF, FLOAT = ir.HalfType(), ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)
HALF_VECTOR = ir.VectorType(FLOAT, LANES // 2)
HALF_ZEROS = ir.Constant(HALF_VECTOR, [0.0] * (LANES // 2))
_STORED = {FLOAT32: FLOAT, BFLOAT16: INT16, FLOAT16: HALF}

# llvmlite's values and builders, and numba's tools for them, carry no types to follow.
cgutils: Any = untyped_cgutils
Value = Any
Builder = Any


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Let numba code call a function, which is compiled together with its callers."""
    compile_later: Any = njit
    dispatcher: Callable[P, R] = compile_later(function)
    return dispatcher


def at(builder: Builder, address: Value, stride: Value | int, index: Value | int) -> Value:
    """The address of element ``index``."""
    stride = ir.Constant(INT64, stride) if isinstance(stride, int) else stride
    index = ir.Constant(INT64, index) if isinstance(index, int) else index
    return builder.add(address, builder.mul(stride, index))


def load(builder: Builder, address: Value, kind: int, lanes: int = LANES) -> Value:
    """Read float32, widened from what is stored, which is exact; at any address.

    Mapped checkpoints align tensors as they like.
    """

    def of(element: Value) -> Value:
        return element if lanes == 1 else ir.VectorType(element, lanes)

    loaded = builder.load(builder.inttoptr(address, of(_STORED[kind]).as_pointer()))
    loaded.align = 1
    if kind == FLOAT16:
        return builder.fpext(loaded, of(FLOAT))
    if kind == BFLOAT16:
        shift = ir.Constant(of(INT32), 16 if lanes == 1 else [16] * lanes)
        return builder.bitcast(builder.shl(builder.zext(loaded, of(INT32)), shift), of(FLOAT))
    return loaded


def store(builder: Builder, value: Value, address: Value) -> None:
    """Write float32, one or many."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def copy_numbers(builder: Builder, target: Value, source: Value, count: Value, kind: Value) -> None:
    """Copy so many numbers as they are stored."""
    wide = builder.icmp_unsigned("==", kind, ir.Constant(INT64, FLOAT32))
    size = builder.select(wide, ir.Constant(INT64, 4), ir.Constant(INT64, 2))
    octets = ir.IntType(8).as_pointer()
    ends = [builder.inttoptr(address, octets) for address in (target, source)]
    cgutils.raw_memcpy(builder, *ends, count, size)


def prefetch(builder: Builder, address: Value) -> None:
    """Ask for the cache line at an address, which need not be a valid one."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, keep, data = (ir.Constant(INT32, number) for number in (0, 3, 1))
    builder.call(function, [pointer, read, keep, data])


def fused(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """``a * b + c``, rounded once."""
    suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.{suffix}")
    return builder.call(function, [a, b, c])


def splat(builder: Builder, scalar: Value) -> Value:
    """One number in all lanes."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    zeros = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, zeros)


def total(builder: Builder, vector: Value) -> Value:
    """The sum of the lanes: the upper half is added to the lower one until one is left."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        picks = [list(range(begin, begin + lanes)) for begin in (0, lanes)]
        lower, upper = (
            builder.shuffle_vector(
                vector, undefined, ir.Constant(ir.VectorType(INT32, lanes), pick)
            )
            for pick in picks
        )
        vector = builder.fadd(lower, upper)
    return builder.extract_element(vector, ir.Constant(INT32, 0))


def totals(builder: Builder, vectors: list[Value]) -> Value:
    """Of four vectors of eight lanes each the sum of its lanes, in the order of :func:`total`."""

    def picked(a: Value, b: Value, *lanes: int) -> Value:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))

    quarters = [
        builder.fadd(picked(each, each, 0, 1, 2, 3), picked(each, each, 4, 5, 6, 7))
        for each in vectors
    ]
    pairs = [
        builder.fadd(picked(a, b, 0, 1, 4, 5), picked(a, b, 2, 3, 6, 7))
        for a, b in (quarters[:2], quarters[2:])
    ]
    return builder.fadd(picked(*pairs, 0, 2, 4, 6), picked(*pairs, 1, 3, 5, 7))


def expression(result: Any, emit: Callable[..., Value], *parameters: Any) -> Any:
    """A function for numba code: ``emit(builder, *operands)`` is its value."""

    def typing(typingctx: Any, *arguments: Any) -> Any:
        def codegen(context: Any, builder: Builder, signature: Any, operands: Any) -> Any:
            value = emit(builder, *operands)
            return context.get_dummy_value() if result is types.none else value

        return result(*parameters), codegen

    # numba counts the arguments in the signature, and would hand over *arguments as one tuple.
    names = ["typingctx", *(f"operand{index}" for index in range(len(parameters)))]
    signature = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    setattr(typing, "__signature__", signature)  # noqa: B010  # mypy knows no such attribute
    return intrinsic(typing)


def narrow(builder: Builder, value: Value, address: Value, kind: int) -> None:
    """Write one or sixteen float32 rounded to ``kind``: to nearest, ties to even, NaNs kept."""
    if kind == FLOAT32:
        store(builder, value, address)
        return
    lanes = value.type.count if isinstance(value.type, ir.VectorType) else 1

    def of(element: Value) -> Value:
        return element if lanes == 1 else ir.VectorType(element, lanes)

    def constant(number: int) -> Value:
        return ir.Constant(of(INT32), number if lanes == 1 else [number] * lanes)

    if kind == FLOAT16:
        rounded = builder.fptrunc(value, of(HALF))
    else:
        bits = builder.bitcast(value, of(INT32))
        odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        nearest = builder.add(bits, builder.add(odd, constant(0x7FFF)))
        quiet = builder.or_(bits, constant(0x400000))
        is_nan = builder.fcmp_unordered("uno", value, value)
        upper = builder.lshr(builder.select(is_nan, quiet, nearest), constant(16))
        rounded = builder.trunc(upper, of(INT16))
    pointer = builder.inttoptr(address, rounded.type.as_pointer())
    builder.store(rounded, pointer).align = 1


def _words(builder: Builder, *values: Value) -> Value:
    array = cgutils.alloca_once(builder, INT64, size=len(values))
    for index, value in enumerate(values):
        builder.store(value, builder.gep(array, [ir.Constant(INT64, index)]))
    return builder.ptrtoint(array, INT64)


def _call(builder: Builder, function: Value, *arguments: Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [INT64] * len(arguments))
    builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)


def _fetch_add(builder: Builder, address: Value, amount: Value) -> Value:
    pointer = builder.inttoptr(address, INT64.as_pointer())
    return builder.atomic_rmw("add", pointer, amount, "seq_cst")


_f32, _int = types.float32, types.intp


def _load_number(builder: Builder, address: Value) -> Value:
    return load(builder, address, FLOAT32, 1)


load_float32 = expression(_f32, _load_number, _int)
store_float32 = expression(types.none, store, _f32, _int)

word = expression(
    _int, lambda b, base, i: b.load(b.inttoptr(at(b, base, 8, i), INT64.as_pointer())), _int, _int
)
"""``word(base, i)``: integer ``i`` of a row of integers."""
half_word = expression(
    _int,
    lambda b, base, i: b.sext(b.load(b.inttoptr(at(b, base, 4, i), INT32.as_pointer())), INT64),
    _int,
    _int,
)
"""``half_word(base, i)``: integer ``i`` of a row of 32-bit integers."""
store_word = expression(
    types.none, lambda b, x, a: b.store(x, b.inttoptr(a, INT64.as_pointer())), _int, _int
)
fetch_add = expression(_int, _fetch_add, _int, _int)
"""Add to the integer at an address, at once for all threads; what it was."""


def _load_now(builder: Builder, address: Value) -> Value:
    return builder.load_atomic(builder.inttoptr(address, INT64.as_pointer()), "acquire", 8)


def _pause(builder: Builder) -> None:
    if platform.machine() in ("x86_64", "AMD64"):
        kind = ir.FunctionType(ir.VoidType(), [])
        name = "llvm.x86.sse2.pause"
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])


word_now = expression(_int, _load_now, _int)
"""The integer at an address, which other threads change; what they wrote before it is seen."""
pause = expression(types.none, _pause)
"""Tell the processor that this thread waits for another."""


def unpack(count: int) -> Any:
    """A function that reads so many integers in a row from an address: a tuple."""

    def emit(builder: Builder, address: Value) -> Value:
        places = [at(builder, address, 8, index) for index in range(count)]
        pointers = [builder.inttoptr(place, INT64.as_pointer()) for place in places]
        return cgutils.pack_array(builder, [builder.load(pointer) for pointer in pointers])

    integers: Any = types.UniTuple
    return expression(integers(_int, count), emit, _int)


def words(count: int) -> Any:
    """A function that lays so many integers in a row on its caller's stack: the address."""
    return expression(_int, _words, *([_int] * count))


def call(count: int) -> Any:
    """A function that calls what stands at its first argument with so many integers."""
    return expression(types.none, _call, *([_int] * (count + 1)))


unpack_3, unpack_4, unpack_5, unpack_6, unpack_7 = (unpack(count) for count in range(3, 8))
