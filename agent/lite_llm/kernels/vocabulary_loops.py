"""Compiled loops over one row of logits: draw a token, or tell how likely tokens are.

Sums are float64: sixteen weights as a tree, then one sixteen after the other. Whatever ranks values
takes equal ones by ascending place, and -0 equals 0. A row's outcome depends on that row alone, and
exp is this room's own, so that it is the same on every processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba.core import types

from lite_llm.kernels.functions import exp, log
from lite_llm.kernels.lanes import _lanes as lanes_type
from lite_llm.kernels.lanes import greater, largest, put, spread, take, where_less, within
from lite_llm.kernels.threads import Kernel
from lite_llm.kernels.vector import (
    FLOAT32,
    INT32,
    LANES,
    Builder,
    Value,
    expression,
    half_word,
    inlined,
    load_float32,
    store_float32,
    store_word,
    total,
    unpack_4,
    word,
)

BUCKETS, FINE = 4096, 1024
"""Of the twelve upper bits of a value, and of the next ten, and of the last ten."""
_DOUBLE = ir.DoubleType()
_int, _f64 = types.intp, types.float64

load_float64 = expression(
    _f64, lambda b, address: b.load(b.inttoptr(address, _DOUBLE.as_pointer())), _int
)
store_float64 = expression(
    types.none, lambda b, x, a: b.store(x, b.inttoptr(a, _DOUBLE.as_pointer())), _f64, _int
)
store_half_word = expression(
    types.none,
    lambda b, x, a: b.store(b.trunc(x, INT32), b.inttoptr(a, INT32.as_pointer())),
    _int,
    _int,
)


def _wide_total(builder: Builder, lanes: Value) -> Value:
    return total(builder, builder.fpext(lanes, ir.VectorType(_DOUBLE, LANES)))


wide_sum_of = expression(_f64, _wide_total, lanes_type)
"""The lanes, added as a tree in float64."""


@inlined
def _rank(values: int, place: int) -> int:
    """A float32's bits as an integer that ascends with it."""
    bits: int = half_word(values, place)
    if bits == -2147483648:
        return 0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@inlined
def _largest(values: int, size: int) -> Any:
    least = -np.inf
    best = spread(least)
    for i in range(0, size, LANES):
        lanes = take(values + 4 * i, FLOAT32, size - i)
        best = greater(best, within(lanes, 0, size - i, least))
    return largest(best)


@inlined
def _weigh(values: int, size: int, temperature: Any, least: Any, out: int) -> None:
    """``exp((value - largest) / temperature)``, or 0 where that is less than ``least``."""
    top, warmth, none = spread(_largest(values, size)), spread(temperature), spread(0.0)
    for i in range(0, size, LANES):
        lanes = exp((take(values + 4 * i, FLOAT32, size - i) - top) / warmth)
        put(where_less(lanes, spread(least), none, lanes), out + 4 * i, FLOAT32, size - i)


@inlined
def _sum(weights: int, size: int) -> float:
    mass = 0.0
    for i in range(0, size, LANES):
        mass += wide_sum_of(take(weights + 4 * i, FLOAT32, size - i))
    return mass


@inlined
def _mass(values: int, place: int, counts: int) -> float:
    return 1.0 if counts != 0 else np.float64(load_float32(values + 4 * place))


@inlined
def _bucket(table: int, buckets: int, above: float, target: float) -> tuple[int, float]:
    """The first from the top with which ``target`` is reached, or else the last that holds
    anything; and what lies above it."""
    chosen, before = 0, above
    for bucket in range(buckets - 1, -1, -1):
        mass = load_float64(table + 8 * bucket)
        if mass > 0.0:
            chosen, before = bucket, above
            above += mass
            if above >= target:
                break
    return chosen, before


@inlined
def _clear(table: int, buckets: int) -> None:
    for bucket in range(buckets):
        store_float64(0.0, table + 8 * bucket)


@inlined
def _is_below(values: int, size: int, place: int, floor: Any) -> Any:
    """Whether sixteen values can be passed over at once; behind the last one stand zeros."""
    return largest(take(values + 4 * place, FLOAT32, size - place)) < floor


@inlined
def _value(rank: int, spot: int) -> Any:
    """The float32 of a rank; ``spot`` is an address to write to."""
    store_half_word(rank ^ ((rank >> 31) & 0x7FFFFFFF), spot)
    return load_float32(spot)


@inlined
def _select(
    values: int, size: int, counts: int, target: float, floor: Any, table: int, places: int
) -> tuple[int, int]:
    """The rank and place of the last of the largest values that together reach ``target``.

    Each counts as 1 if ``counts``, else as itself, which is not negative then. Those below
    ``floor`` are not needed to reach it.
    """
    _clear(table, BUCKETS)
    for begin in range(0, size, LANES):
        if _is_below(values, size, begin, floor):
            continue
        for i in range(begin, min(size, begin + LANES)):
            at = table + 8 * ((_rank(values, i) >> 20) + BUCKETS // 2)
            store_float64(load_float64(at) + _mass(values, i, counts), at)
    bucket, above = _bucket(table, BUCKETS, 0.0, target)
    floor = _value((bucket - BUCKETS // 2) << 20, places)
    found = 0
    for begin in range(0, size, LANES):
        if _is_below(values, size, begin, floor):
            continue
        for i in range(begin, min(size, begin + LANES)):
            if (_rank(values, i) >> 20) + BUCKETS // 2 == bucket:
                store_half_word(i, places + 4 * found)
                found += 1
    for shift in (10, 0):
        _clear(table, FINE)
        for j in range(found):
            i = half_word(places, j)
            at = table + 8 * ((_rank(values, i) >> shift) & (FINE - 1))
            store_float64(load_float64(at) + _mass(values, i, counts), at)
        bucket, above = _bucket(table, FINE, above, target)
        kept = 0
        for j in range(found):
            i = half_word(places, j)
            if (_rank(values, i) >> shift) & (FINE - 1) == bucket:
                store_half_word(i, places + 4 * kept)
                kept += 1
        found = kept
    # What is left is equal: it is taken by place.
    last = half_word(places, 0)
    mass = _mass(values, last, counts)
    above += mass
    for j in range(1, found):
        if above >= target:
            break
        last = half_word(places, j)
        above += mass
    return _rank(values, last), last


@inlined
def _floor(values: int, size: int, top_k: int, table: int, bests: int, places: int) -> Any:
    """A bound that at least ``top_k`` values reach: so many sixteens have one that does."""
    sixteens = (size + LANES - 1) // LANES
    if sixteens < 2 * top_k:
        return np.float32(-np.inf)
    for number in range(sixteens):
        best = _largest(values + 4 * LANES * number, min(LANES, size - LANES * number))
        store_float32(best, bests + 4 * number)
    least = np.float32(-np.inf)
    rank, _ = _select(bests, sixteens, 1, np.float64(top_k), least, table, places)
    return _value(rank, places)


@inlined
def _keep(
    values: int, size: int, rank: int, last: int, named: int, names: int, out: int, spot: int
) -> int:
    """Move values up to a rank and place to ``out``, with their names; returns how many."""
    kept, floor = 0, _value(rank, spot)
    for begin in range(0, size, LANES):
        if _is_below(values, size, begin, floor):
            continue
        for i in range(begin, min(size, begin + LANES)):
            found = _rank(values, i)
            if found > rank or (found == rank and i <= last):
                store_half_word(half_word(names, i) if named != 0 else i, names + 4 * kept)
                store_half_word(half_word(values, i), out + 4 * kept)
                kept += 1
    return kept


@inlined
def _fall(weights: int, size: int, target: float) -> int:
    """The first place with which the sum exceeds ``target``, or else the last with any weight."""
    first, before, mass = 0, 0.0, 0.0
    for i in range(0, size, LANES):
        part = wide_sum_of(take(weights + 4 * i, FLOAT32, size - i))
        if part > 0.0:
            first, before = i, mass
        mass += part
        if mass > target:
            break
    chosen = first
    for i in range(first, min(size, first + LANES)):
        weight = np.float64(load_float32(weights + 4 * i))
        if weight > 0.0:
            chosen = i
            before += weight
            if before > target:
                break
    return chosen


@inlined
def _uniform(seed: int, position: int) -> float:
    """As ``engine.philox.uniform``."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = np.uint64(seed) & mask, np.uint64(seed) >> half
    c0, c1 = np.uint64(position) & mask, np.uint64(position) >> half
    c2, c3 = np.uint64(0), np.uint64(0)
    for _ in range(10):
        product_0, product_1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product_1 >> half) ^ c1 ^ k0,
            product_1 & mask,
            (product_0 >> half) ^ c3 ^ k1,
            product_0 & mask,
        )
        k0 = (k0 + np.uint64(0x9E3779B9)) & mask
        k1 = (k1 + np.uint64(0xBB67AE85)) & mask
    return np.float64((c0 << half | c1) >> np.uint64(11)) * 2.0**-53


def _draw(arguments: int, worker: int, task: int) -> None:
    table, size, memory, memory_size = unpack_4(arguments)
    memory += worker * memory_size
    row = table + 64 * task  # vocabulary.DRAW
    values, seed, position, top_k = unpack_4(row)
    temperature, top_p = np.float32(load_float64(row + 32)), load_float64(row + 40)
    min_p = np.float32(load_float64(row + 48))
    buckets, weights = memory, memory + 8 * BUCKETS
    names, places = weights + 4 * size, weights + 8 * size
    count, named = size, 0
    if top_k < size:
        floor = _floor(values, size, top_k, buckets, weights, places)
        rank, last = _select(values, size, 1, np.float64(top_k), floor, buckets, places)
        count, named = _keep(values, size, rank, last, 0, names, weights, places), 1
        values = weights
    _weigh(values, count, temperature, min_p, weights)
    mass = _sum(weights, count)
    if top_p < 1.0:
        # What is less can't add up to half of what may be missing.
        floor = np.float32(mass * (1.0 - top_p) / (2.0 * count))
        rank, last = _select(weights, count, 0, top_p * mass, floor, buckets, places)
        count, named = _keep(weights, count, rank, last, named, names, weights, places), 1
        mass = _sum(weights, count)
    place = _fall(weights, count, _uniform(seed, position) * mass)
    store_word(half_word(names, place) if named != 0 else place, row + 56)


def _rate(arguments: int, worker: int, task: int) -> None:
    table, size = word(arguments, 0), word(arguments, 1)
    row = table + 40 * task  # vocabulary.RATE
    values, token, count, tops = unpack_4(row)
    top = _largest(values, size)
    mass = 0.0
    for i in range(0, size, LANES):
        lanes = exp(take(values + 4 * i, FLOAT32, size - i) - spread(top))
        mass += wide_sum_of(within(lanes, 0, size - i, 0.0))
    norm = log(mass)
    store_float64(np.float64(load_float32(values + 4 * token)) - np.float64(top) - norm, row + 32)
    found, floor = 0, np.float32(-np.inf)
    for begin in range(0, size if count > 0 else 0, LANES):
        if found == count and _is_below(values, size, begin, floor):
            continue
        for i in range(begin, min(size, begin + LANES)):
            rank = _rank(values, i)
            if found == count and rank <= word(tops, 2 * count - 1):
                continue
            j = min(found, count - 1)
            while j > 0 and word(tops, 2 * j - 1) < rank:
                store_word(word(tops, 2 * j - 2), tops + 16 * j)
                store_word(word(tops, 2 * j - 1), tops + 16 * j + 8)
                j -= 1
            store_word(i, tops + 16 * j)
            store_word(rank, tops + 16 * j + 8)
            found = min(found + 1, count)
            floor = load_float32(values + 4 * word(tops, 2 * found - 2))
    for j in range(found):
        i = word(tops, 2 * j)
        likely = np.float64(load_float32(values + 4 * i)) - np.float64(top) - norm
        store_float64(likely, tops + 16 * j + 8)


def _top(arguments: int, worker: int, task: int) -> None:
    rows, stride, size, tokens = unpack_4(arguments)
    values = rows + stride * task
    infinite, good, bad = spread(np.inf), spread(0.0), spread(1.0)
    best, worst = spread(-np.inf), good
    for i in range(0, size, LANES):
        lanes = take(values + 4 * i, FLOAT32, size - i)
        worst = greater(worst, where_less(lanes, infinite, good, bad))
        best = greater(best, within(lanes, 0, size - i, -np.inf))
    top, token = largest(best), -1
    if largest(worst) == 0.0 and top > -np.inf:
        begin = 0
        while _is_below(values, size, begin, top):
            begin += LANES
        token = begin
        while load_float32(values + 4 * token) < top:
            token += 1
    store_word(token, tokens + 8 * task)


draw, rate, top = Kernel(_draw), Kernel(_rate), Kernel(_top)
