"""Attention over pages on a GPU, in one order for prompts and answers alike.

Positions are cut into splits of 256 from position 0 on, splits into blocks of 64. A split begins
with nothing, its softmax runs along its blocks (Milakov and Gimelshein, 2018), and splits are
folded into the row's result in ascending order: either by one program that walks them all, or by
as many programs as there are splits, and then one that folds. What a row doesn't see adds exactly
nothing, so it doesn't matter with whom it shares a program. A number that isn't finite spoils the
rows of its own sequence only.

Legend: T rows, M lines of a program (rows times heads that share keys), L positions of a block,
G key heads, H query heads, C and E dimensions of a key and a value. C is cut in two, each a power
of two: a main part and a rest. A row at a negative position is padding and gets anything.
"""

from __future__ import annotations

import triton.language as tl

from lite_llm.kernels.triton_launch import inlined, kernel
from lite_llm.kernels.triton_rowwise import tanh

SPLIT, BLOCK = 256, 64
"""Positions: part of the order of every sum, never to be tuned."""


@inlined
def _folded(
    top: tl.tensor,
    mass: tl.tensor,
    total: tl.tensor,
    top_2: tl.tensor,
    mass_2: tl.tensor,
    total_2: tl.tensor,
) -> tl.tensor:
    """A running softmax and that of the positions after it; totals are ``[M, E]``, others [M]."""
    new_top = tl.maximum(top, top_2)
    base = tl.where(new_top == -float("inf"), 0.0, new_top)  # of lines that saw nothing so far
    keep = tl.exp(top - base)
    keep_2 = tl.exp(top_2 - base)
    mass = tl.fma(mass, keep, mass_2 * keep_2)
    keep = tl.broadcast_to(keep[:, None], total.shape)
    return new_top, mass, tl.fma(total, keep, total_2 * keep_2[:, None])


@kernel(free=("pages_row", "length"))
def attend(
    query: tl.tensor,
    query_row: tl.tensor,
    query_head: tl.tensor,
    keys: tl.tensor,
    key_page: tl.tensor,
    key_head: tl.tensor,
    key_slot: tl.tensor,
    values: tl.tensor,
    value_page: tl.tensor,
    value_head: tl.tensor,
    value_slot: tl.tensor,
    sequences: tl.tensor,
    positions: tl.tensor,
    pages: tl.tensor,
    pages_row: tl.tensor,
    tiles: tl.tensor,
    sinks: tl.tensor,
    out: tl.tensor,
    part_sum: tl.tensor,
    part_state: tl.tensor,
    length: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    SHARED: tl.constexpr,
    CHUNKS: tl.constexpr,
    HEADS: tl.constexpr,
    LINES: tl.constexpr,
    KEY: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    VALUE: tl.constexpr,
    VALUES: tl.constexpr,
    PAGE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    TILED: tl.constexpr,
    APART: tl.constexpr,
    INSIDE: tl.constexpr,
    WIDENED: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
    SINKS: tl.constexpr,
) -> None:
    """A tile of rows with some of the heads of one key head: all their splits, or (APART) one."""
    first = tl.program_id(0)
    rows = 1
    if TILED:
        rows = tl.load(tiles + 2 * first + 1)
        first = tl.load(tiles + 2 * first)
    group = tl.program_id(1) // CHUNKS
    line_M = tl.arange(0, LINES)
    head_M = tl.program_id(1) % CHUNKS * HEADS + line_M % HEADS
    is_line_M = (line_M < rows * HEADS) & (head_M < SHARED)
    row_M = (first + line_M // HEADS).to(tl.int64)
    head_M += group * SHARED
    position_M = tl.load(positions + row_M, mask=is_line_M, other=-1)
    last = tl.load(positions + first + rows - 1)
    origin = last * 0
    if WINDOWED:
        origin = tl.maximum(tl.load(positions + first) + 1 - window, 0)
    own_pages = pages + tl.load(sequences + first).to(tl.int64) * pages_row
    begin, end = origin // SPLIT, last // SPLIT + 1
    if APART:
        begin = tl.maximum(begin, tl.program_id(2))
        end = tl.minimum(end, tl.program_id(2) + 1)

    at_main = tl.arange(0, MAIN)
    at_rest = MAIN + tl.arange(0, REST)
    at_E = tl.arange(0, VALUES)
    from_M1 = query + row_M[:, None] * query_row + head_M[:, None] * query_head
    is_main_MC = is_line_M[:, None]
    if MAIN > KEY:
        is_main_MC = is_main_MC & (at_main[None, :] < KEY)
    query_main = tl.load(from_M1 + at_main[None, :], mask=is_main_MC, other=0.0)
    query_rest = tl.load(
        from_M1 + at_rest[None, :], mask=is_line_M[:, None] & (at_rest[None, :] < KEY), other=0.0
    )
    if WIDENED:
        query_main = query_main.to(tl.float32)
        query_rest = query_rest.to(tl.float32)
    keys += group * key_head
    values += group * value_head

    top_M = tl.full((LINES,), -float("inf"), tl.float32)
    mass_M = tl.zeros((LINES,), tl.float32)
    if SINKS:
        top_M = tl.load(sinks + head_M, mask=is_line_M, other=0.0).to(tl.float32)
        mass_M += 1.0
    sum_ME = tl.zeros((LINES, VALUES), tl.float32)
    for split in range(begin, end):
        split_top_M = tl.full((LINES,), -float("inf"), tl.float32)
        split_mass_M = tl.zeros((LINES,), tl.float32)
        split_sum_ME = tl.zeros((LINES, VALUES), tl.float32)
        from_block = tl.maximum(split * SPLIT, origin // BLOCK * BLOCK)
        for block in range(from_block, tl.minimum(split * SPLIT + SPLIT, last + 1), BLOCK):
            at_L = block + tl.arange(0, BLOCK)
            is_there_L = (at_L >= origin) & (at_L <= last)
            page_L = tl.load(own_pages + at_L // PAGE, mask=is_there_L, other=0).to(tl.int64)
            key_L1 = keys + (page_L * key_page + at_L % PAGE * key_slot)[:, None]
            is_main_LC = is_there_L[:, None]
            if MAIN > KEY:
                is_main_LC = is_main_LC & (at_main[None, :] < KEY)
            key_main = tl.load(key_L1 + at_main[None, :], mask=is_main_LC, other=0.0)
            if INSIDE:
                value_LE = key_main
            else:
                value_L1 = values + (page_L * value_page + at_L % PAGE * value_slot)[:, None]
                is_value_LE = is_there_L[:, None] & (at_E[None, :] < VALUE)
                value_LE = tl.load(value_L1 + at_E[None, :], mask=is_value_LE, other=0.0)
            if WIDENED:
                key_main = key_main.to(tl.float32)
                value_LE = value_LE.to(tl.float32)
            score_ML = tl.dot(query_main, tl.trans(key_main), input_precision="ieee")
            if KEY > MAIN:
                is_rest = is_there_L[:, None] & (at_rest[None, :] < KEY)
                key_rest = tl.load(key_L1 + at_rest[None, :], mask=is_rest, other=0.0)
                if WIDENED:
                    key_rest = key_rest.to(tl.float32)
                score_ML = tl.dot(query_rest, tl.trans(key_rest), score_ML, input_precision="ieee")
            score_ML = score_ML * scale
            if CAPPED:
                score_ML = softcap * tanh(score_ML / softcap)
            is_seen_ML = at_L[None, :] <= position_M[:, None]
            if WINDOWED:
                is_seen_ML = is_seen_ML & (at_L[None, :] > position_M[:, None] - window)
            score_ML = tl.where(is_seen_ML, score_ML, -float("inf"))
            new_top_M = tl.maximum(split_top_M, tl.max(score_ML, 1))
            base_M = tl.where(new_top_M == -float("inf"), 0.0, new_top_M)
            weight_ML = tl.exp(score_ML - base_M[:, None])
            keep_M = tl.exp(split_top_M - base_M)
            split_mass_M = tl.fma(split_mass_M, keep_M, tl.sum(weight_ML, 1))
            split_sum_ME = tl.dot(
                weight_ML.to(value_LE.dtype),
                value_LE,
                split_sum_ME * keep_M[:, None],
                input_precision="ieee",
            )
            split_top_M = new_top_M
        if APART:
            place_M = (split * length + row_M) * (tl.num_programs(1) // CHUNKS * SHARED) + head_M
            tl.store(part_state + 2 * place_M, split_top_M, mask=is_line_M)
            tl.store(part_state + 2 * place_M + 1, split_mass_M, mask=is_line_M)
            to_ME = part_sum + place_M[:, None] * VALUES + at_E[None, :]
            tl.store(to_ME, split_sum_ME, mask=is_line_M[:, None])
        else:
            top_M, mass_M, sum_ME = _folded(
                top_M, mass_M, sum_ME, split_top_M, split_mass_M, split_sum_ME
            )
    if not APART:
        heads = tl.num_programs(1) // CHUNKS * SHARED
        to_ME = out + (row_M * heads + head_M)[:, None] * VALUE + at_E[None, :]
        mean_ME = (sum_ME / mass_M[:, None]).to(out.dtype.element_ty)
        tl.store(to_ME, mean_ME, mask=is_line_M[:, None] & (at_E[None, :] < VALUE))


@kernel(free=("length",))
def fold(
    part_sum: tl.tensor,
    part_state: tl.tensor,
    positions: tl.tensor,
    sinks: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    window: tl.tensor,
    HEADS: tl.constexpr,
    VALUE: tl.constexpr,
    VALUES: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOWED: tl.constexpr,
    SINKS: tl.constexpr,
) -> None:
    """One head of one row: its splits in ascending order."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions + row)
    begin, end = position * 0, position // SPLIT + 1
    if WINDOWED:
        begin = tl.maximum(position + 1 - window, 0) // SPLIT
    at_M = tl.arange(0, 1)
    at_E = tl.arange(0, VALUES)
    top_M = tl.full((1,), -float("inf"), tl.float32)
    mass_M = tl.zeros((1,), tl.float32)
    if SINKS:
        top_M = tl.load(sinks + head + at_M).to(tl.float32)
        mass_M += 1.0
    sum_ME = tl.zeros((1, VALUES), tl.float32)
    for split in tl.range(begin, end, num_stages=4):
        place_M = (split * length + row) * HEADS + head + at_M
        split_top_M = tl.load(part_state + 2 * place_M)
        split_mass_M = tl.load(part_state + 2 * place_M + 1)
        split_sum_ME = tl.load(part_sum + place_M[:, None] * VALUES + at_E[None, :])
        top_M, mass_M, sum_ME = _folded(
            top_M, mass_M, sum_ME, split_top_M, split_mass_M, split_sum_ME
        )
    mean_ME = (sum_ME / mass_M[:, None]).to(out.dtype.element_ty)
    to_ME = out + (row * HEADS + head) * VALUE + at_E[None, :]
    tl.store(to_ME, mean_ME, mask=at_E[None, :] < VALUE)
