"""Compiled attention over pages.

Keys are taken in blocks of 64 positions, aligned to position 0 whatever a page holds, and the
softmax runs along (Milakov and Gimelshein, 2018): a block's largest score may raise the row's top,
and then its sums shrink by one factor. Scores are dot products in the order of tiles.py; weights
are added lane by lane, values one by one, in ascending position. A row walks its own range of
positions only, so that neither neighbours nor what lies in unused slots can reach it.
"""

from __future__ import annotations

from lite_llm.kernels.functions import exp, tanh
from lite_llm.kernels.lanes import greater, largest, put, spread, sum_of, take, within
from lite_llm.kernels.products import CACHED_ROWS, clear, dots, size_of, widen
from lite_llm.kernels.threads import Kernel
from lite_llm.kernels.tiles import mix_1x2, mix_2x2, mix_3x2
from lite_llm.kernels.vector import (
    FLOAT32,
    LANES,
    half_word,
    inlined,
    load_float32,
    store_float32,
    store_word,
    unpack_3,
    unpack_4,
    unpack_5,
    unpack_7,
    word,
)

BLOCK = 64
"""Positions whose scores are taken together: part of the order of every sum, never to be tuned."""
MAX_LINES = 64
"""Queries of a task: rows times heads that share one key head."""
IN_PLACE_LINES = 8
"""Up to so many read keys and values where they lie; more of them read a widened copy."""


@inlined
def _weigh(
    scores: int, begin: int, end: int, scale: float, cap: float, state: int, sums: int, width: int
) -> None:
    """Turn a line's scores of one block into weights, zero outside begin to end; add them up."""
    top, mass = load_float32(state), load_float32(state + 4)
    best = spread(top)
    for i in range(0, BLOCK, LANES):
        score = take(scores + 4 * i, FLOAT32, LANES) * spread(scale)
        if cap != 0.0:
            score = spread(cap) * tanh(score / spread(cap))
        put(score, scores + 4 * i, FLOAT32, LANES)
        best = greater(best, within(score, begin - i, end - i, top))
    new_top = largest(best)
    total = spread(0.0)
    for i in range(0, BLOCK, LANES):
        weight = exp(take(scores + 4 * i, FLOAT32, LANES) - spread(new_top))
        weight = within(weight, begin - i, end - i, 0.0)
        put(weight, scores + 4 * i, FLOAT32, LANES)
        total = total + weight
    if new_top > top:
        factor = exp(spread(top) - spread(new_top))
        mass = mass * largest(factor)
        for i in range(0, width, LANES):
            put(take(sums + 4 * i, FLOAT32, LANES) * factor, sums + 4 * i, FLOAT32, LANES)
    store_float32(new_top, state)
    store_float32(mass + sum_of(total), state + 4)


@inlined
def _mix(
    scores: int,
    lines: int,
    spans: int,
    first: int,
    last: int,
    values: int,
    stride: int,
    kind: int,
    sums: int,
    width: int,
    ahead: int,
) -> None:
    """Add weighted values to each line's sums; lines of one span go together.

    ``values`` are of the block's positions from ``first`` to ``last``; what lies ``ahead`` of them
    is asked for meanwhile.
    """
    m = 0
    while m < lines:
        own_begin, own_end = word(spans, 2 * m), word(spans, 2 * m + 1)
        step = 1
        while (
            step < 3
            and m + step < lines
            and word(spans, 2 * (m + step)) == own_begin
            and word(spans, 2 * (m + step) + 1) == own_end
        ):
            step += 1
        begin, end = max(own_begin, first), min(own_end, last)
        weights = scores + 4 * (m * BLOCK + begin)
        if begin < end:
            for i in range(0, width, 2 * LANES):
                x = values + (begin - first) * stride + size_of(kind) * i
                to, count = sums + 4 * (m * width + i), end - begin
                if step == 3:
                    mix_3x2(weights, 4 * BLOCK, x, stride, kind, count, to, 4 * width, ahead)
                elif step == 2:
                    mix_2x2(weights, 4 * BLOCK, x, stride, kind, count, to, 4 * width, ahead)
                else:
                    mix_1x2(weights, 0, x, stride, kind, count, to, 0, ahead)
        m += step


@inlined
def _place(pages: int, position: int, slots: int, page_stride: int, slot_stride: int) -> int:
    """Bytes from the first slot of a pool to that of a position."""
    page: int = half_word(pages, position // slots)
    return page * page_stride + position % slots * slot_stride


def _attend(arguments: int, worker: int, task: int) -> None:
    table = word(arguments, 0)
    keys, key_page, key_head, key_slot, kind, slots, key_size = unpack_7(table)
    values, value_page, value_head, value_slot, _, _, value_size = unpack_7(table + 8 * 7)
    sequences, positions, pages, pages_row, tiles = unpack_5(table + 8 * 14)
    query, query_row, query_head, query_kind = unpack_4(table + 8 * 19)
    out, out_row, out_head = unpack_3(table + 8 * 23)
    groups, chunks, chunk_heads, shared = unpack_4(table + 8 * 26)
    scale, cap = load_float32(table + 8 * 30), load_float32(table + 8 * 31)
    window, sinks, sinks_kind = unpack_3(table + 8 * 32)
    scratch, scratch_bytes, values_in_keys = unpack_3(table + 8 * 35)

    tile = task // (groups * chunks)
    group = task // chunks % groups
    first_head = task % chunks * chunk_heads
    heads = min(chunk_heads, shared - first_head)
    first_head += group * shared
    first, rows = half_word(tiles, 2 * tile), half_word(tiles, 2 * tile + 1)
    lines = rows * heads
    key_width = -(-key_size // LANES) * LANES
    value_width = -(-value_size // (2 * LANES)) * 2 * LANES
    panel_width = max(key_width, value_width) if values_in_keys else key_width

    queries = scratch + worker * scratch_bytes
    sums = queries + 4 * lines * key_width
    scores = sums + 4 * lines * value_width
    spans = scores + 4 * lines * BLOCK
    state = spans + 16 * lines
    key_panel = state + 8 * lines
    value_panel = key_panel if values_in_keys else key_panel + 4 * BLOCK * panel_width
    value_stride = 4 * panel_width if values_in_keys else 4 * value_width
    keys_of, values_of = keys + group * key_head, values + group * value_head
    in_place = lines <= IN_PLACE_LINES and values_in_keys == 0 and value_width == value_size

    for m in range(lines):
        head = first_head + m % heads
        row = first + m // heads
        begin = query + row * query_row + head * query_head
        widen(begin, query_kind, key_size, queries + 4 * m * key_width)
        top, mass = -float("inf"), 0.0
        if sinks != 0:
            top, mass = sum_of(take(sinks + head * size_of(sinks_kind), sinks_kind, 1)), 1.0
        store_float32(top, state + 8 * m)
        store_float32(mass, state + 8 * m + 4)
    clear(sums, lines * value_width)
    own_pages = pages + half_word(sequences, first) * pages_row
    last = half_word(positions, first + rows - 1)
    origin = half_word(positions, first) + 1 - window if window != 0 else 0
    origin = max(0, origin)
    for block in range(origin // BLOCK * BLOCK, last + 1, BLOCK):
        c0, c1 = max(0, origin - block), min(BLOCK, last + 1 - block)
        c = c0
        clear(scores, lines * BLOCK)
        while in_place and c < c1:  # page by page, the next one asked for meanwhile
            at, count = block + c, min(c1 - c, slots - (block + c) % slots)
            source = keys_of + _place(own_pages, at, slots, key_page, key_slot)
            following = values_of + _place(own_pages, block + c0, slots, value_page, value_slot)
            if c + count < c1:
                following = keys_of + _place(own_pages, at + count, slots, key_page, key_slot)
            dots(
                queries,
                4 * key_width,
                lines,
                source,
                key_slot,
                kind,
                count,
                key_size,
                scores + 4 * c,
                4 * BLOCK,
                following - source,
            )
            c += count
        for c in range(c1 if in_place else c0, c1):
            source = keys_of + _place(own_pages, block + c, slots, key_page, key_slot)
            widen(source, kind, key_size, key_panel + 4 * c * panel_width)
            if values_in_keys == 0:
                source = values_of + _place(own_pages, block + c, slots, value_page, value_slot)
                widen(source, kind, value_size, value_panel + c * value_stride)
        for m in range(lines if in_place else 0, lines, CACHED_ROWS):
            dots(
                queries + 4 * m * key_width,
                4 * key_width,
                min(CACHED_ROWS, lines - m),
                key_panel + 4 * c0 * panel_width,
                4 * panel_width,
                FLOAT32,
                c1 - c0,
                key_width,
                scores + 4 * (m * BLOCK + c0),
                4 * BLOCK,
                0,
            )
        for m in range(lines):
            position = half_word(positions, first + m // heads)
            begin = max(0, position + 1 - window - block) if window != 0 else 0
            end = min(BLOCK, position + 1 - block)
            store_word(begin, spans + 16 * m)
            store_word(max(begin, end), spans + 16 * m + 8)
            if begin < end:
                line = scores + 4 * m * BLOCK
                to = sums + 4 * m * value_width
                _weigh(line, begin, end, scale, cap, state + 8 * m, to, value_width)
        c = c0
        while in_place and c < c1:
            at, count = block + c, min(c1 - c, slots - (block + c) % slots)
            source = values_of + _place(own_pages, at, slots, value_page, value_slot)
            following = source
            if c + count < c1:
                following = values_of + _place(own_pages, at + count, slots, value_page, value_slot)
            elif at + count <= last:
                following = keys_of + _place(own_pages, at + count, slots, key_page, key_slot)
            _mix(
                scores,
                lines,
                spans,
                c,
                c + count,
                source,
                value_slot,
                kind,
                sums,
                value_width,
                following - source,
            )
            c += count
        if not in_place:
            _mix(
                scores,
                lines,
                spans,
                0,
                BLOCK,
                value_panel,
                value_stride,
                FLOAT32,
                sums,
                value_width,
                0,
            )
    for m in range(lines):
        mass = spread(load_float32(state + 8 * m + 4))
        to = out + (first + m // heads) * out_row + (first_head + m % heads) * out_head
        for i in range(0, value_size, LANES):
            mean = take(sums + 4 * (m * value_width + i), FLOAT32, LANES) / mass
            put(mean, to + i * size_of(query_kind), query_kind, value_size - i)


def scratch_bytes(lines: int, key_size: int, value_size: int) -> int:
    """What each worker needs for a task of so many queries."""
    key_width, value_width = -(-key_size // 32) * 32, -(-value_size // 32) * 32
    floats = (lines + BLOCK) * (key_width + value_width) + lines * BLOCK + 6 * lines
    return 4 * floats + 64


attend = Kernel(_attend)
