"""Attention over pages, and writing to them, on a GPU: which shapes programs get.

Legend: T rows, S sequences, N pages of the longest one, G key heads, H query heads, C and E
dimensions of a key and a value.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from lite_llm.kernels import triton_attention
from lite_llm.kernels.paging import TILE_ROWS, LayerPages, PagedKv, Rows
from lite_llm.kernels.triton_attention import BLOCK, SPLIT
from lite_llm.kernels.triton_launch import kernel, padded

_PROGRAMS = 512
"""With fewer a GPU of some 130 multiprocessors would idle: then each split has a program."""


class Shape(NamedTuple):
    """Queries of a program, and what it runs with."""

    lines: int
    warps: int


_NARROW, _NARROW_WIDE = Shape(16, 1), Shape(16, 4)
"""For values of up to 128 dimensions, and of more. In the first a warp has whole lines."""
_BROAD = (Shape(64, 4), Shape(32, 2))
"""For prompts, the faster first; used on a device if they give the first one's bits there."""
_WIDE = 128


def attend(
    queries_THC: Tensor,
    pages: LayerPages,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """``[T, H, E]``; see attention.py."""
    rows, kv = pages.rows, pages.kv
    _check(rows)
    length, heads, _ = queries_THC.shape
    out_THE = queries_THC.new_empty((length, heads, kv.values_PGBE.shape[3]))
    if length:
        if queries_THC.stride(2) != 1:
            queries_THC = queries_THC.contiguous()
        sinks_H = None if sinks_H is None else sinks_H.contiguous()
        tile_rows = 1 if length == len(rows.pages_SN) else TILE_ROWS
        shape = _shape_for(tile_rows, queries_THC, kv)
        _launch(shape, queries_THC, pages, out_THE, scale, window, softcap, sinks_H)
    return out_THE


def _launch(
    shape: Shape,
    queries_THC: Tensor,
    pages: LayerPages,
    out_THE: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> None:
    rows, kv = pages.rows, pages.kv
    (length, heads, key_size), value_size = queries_THC.shape, out_THE.shape[2]
    keys, values = kv.keys_PGBC, kv.values_PGBE
    groups = keys.shape[1]
    shared = heads // groups
    # One row for each sequence needs no list of tiles, which the host would have to make.
    is_tiled = length != len(rows.pages_SN)
    chunk = min(shared, shape.lines // (TILE_ROWS if is_tiled else 1))
    chunks, tiles = -(-shared // chunk), len(rows.tiles_X2) if is_tiled else length
    main = max(16, padded(key_size + 1) // 2)
    splits = -(-rows.pages_SN.shape[1] * kv.page_tokens // SPLIT)
    apart = splits > 1 and tiles * groups * chunks < _PROGRAMS
    block_size = padded(value_size, 16)
    sums, states = out_THE, out_THE
    if apart:
        parts = (splits, length, heads)
        sums = out_THE.new_empty((*parts, block_size), dtype=torch.float32)
        states = out_THE.new_empty((*parts, 2), dtype=torch.float32)
    sinks = out_THE if sinks_H is None else sinks_H
    triton_attention.attend.launch(
        (tiles, groups * chunks, splits if apart else 1),
        queries_THC,
        *queries_THC.stride()[:2],
        keys,
        *keys.stride()[:3],
        values,
        *values.stride()[:3],
        rows.sequence_T,
        rows.position_T,
        rows.pages_SN,
        rows.pages_SN.stride(0),
        rows.tiles_X2 if is_tiled else rows.sequence_T,
        sinks,
        out_THE,
        sums,
        states,
        length,
        scale,
        softcap or 1.0,
        window or 0,
        warps=shape.warps,
        SHARED=shared,
        CHUNKS=chunks,
        HEADS=chunk,
        LINES=shape.lines,
        KEY=key_size,
        MAIN=main,
        REST=padded(key_size - main, 16),
        VALUE=value_size,
        VALUES=block_size,
        PAGE=kv.page_tokens,
        SPLIT=SPLIT,
        BLOCK=BLOCK,
        TILED=is_tiled,
        APART=apart,
        INSIDE=_is_inside(kv) and value_size == main <= key_size,
        WIDENED=queries_THC.dtype is not keys.dtype or keys.dtype is torch.float32,
        CAPPED=softcap is not None,
        WINDOWED=window is not None,
        SINKS=sinks_H is not None,
    )
    if apart:
        triton_attention.fold.launch(
            (length, heads),
            sums,
            states,
            rows.position_T,
            sinks,
            out_THE,
            length,
            window or 0,
            warps=1,
            HEADS=heads,
            VALUE=value_size,
            VALUES=block_size,
            SPLIT=SPLIT,
            WINDOWED=window is not None,
            SINKS=sinks_H is not None,
        )


def _is_inside(kv: PagedKv) -> bool:
    keys, values = kv.keys_PGBC, kv.values_PGBE
    return values.data_ptr() == keys.data_ptr() and values.stride() == keys.stride()


def _shape_for(tile_rows: int, queries_THC: Tensor, kv: PagedKv) -> Shape:
    _, heads, key_size = queries_THC.shape
    shared, value_size = heads // kv.keys_PGBC.shape[1], kv.values_PGBE.shape[3]
    if value_size > _WIDE:
        return _NARROW_WIDE
    for shape in _BROAD:
        if shape.lines <= tile_rows * padded(shared) and _is_proven(
            shape, queries_THC.dtype, kv.keys_PGBC.dtype, key_size, value_size, queries_THC.device
        ):
            return shape
    return _NARROW


@functools.cache
def _is_proven(
    shape: Shape,
    dtype: torch.dtype,
    kept: torch.dtype,
    key_size: int,
    value_size: int,
    device: torch.device,
) -> bool:
    """Whether a program of this shape gives the narrow one's bits."""
    length, page, shared = SPLIT + 2 * BLOCK, 16, 4
    draw = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=draw)

    pages = length // page
    keys, values = (random(pages, 1, page, size) for size in (key_size, value_size))
    kv = PagedKv(keys.to(device, kept), values.to(device, kept))
    position_T = torch.arange(length - 40, length, dtype=torch.int32, device=device)
    pages_SN = torch.arange(pages, dtype=torch.int32, device=device)[None]
    at = LayerPages(kv, Rows(torch.zeros_like(position_T), position_T, pages_SN))
    queries_THC = random(40, shared, key_size).to(device, dtype)
    results = []
    for each in (shape, _NARROW):
        out_THE = queries_THC.new_empty((40, shared, value_size))
        _launch(each, queries_THC, at, out_THE, key_size**-0.5, None, None, None)
        results.append(out_THE)
    return torch.equal(*results)


@kernel(free=("pages_row",))
def _store(
    keys: tl.tensor,
    key_row: tl.tensor,
    key_head: tl.tensor,
    key_pool: tl.tensor,
    key_pool_page: tl.tensor,
    key_pool_head: tl.tensor,
    key_pool_slot: tl.tensor,
    values: tl.tensor,
    value_row: tl.tensor,
    value_head: tl.tensor,
    value_pool: tl.tensor,
    value_pool_page: tl.tensor,
    value_pool_head: tl.tensor,
    value_pool_slot: tl.tensor,
    sequences: tl.tensor,
    positions: tl.tensor,
    pages: tl.tensor,
    pages_row: tl.tensor,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    PAGE: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    own_pages = pages + tl.load(sequences + row).to(tl.int64) * pages_row
    is_row = position >= 0  # padding is not stored
    page = tl.load(own_pages + position // PAGE, mask=is_row, other=0).to(tl.int64)
    slot = position % PAGE
    at_G1 = tl.arange(0, HEAD_BLOCK)[:, None]
    if tl.program_id(1) == 0:
        at_1C = tl.arange(0, KEY_BLOCK)[None, :]
        is_there_GC = (at_G1 < HEADS) & (at_1C < KEY) & is_row
        key_GC = tl.load(keys + row * key_row + at_G1 * key_head + at_1C, mask=is_there_GC)
        to_G1 = key_pool + page * key_pool_page + at_G1 * key_pool_head + slot * key_pool_slot
        tl.store(to_G1 + at_1C, key_GC.to(key_pool.dtype.element_ty), mask=is_there_GC)
    else:
        at_1E = tl.arange(0, VALUE_BLOCK)[None, :]
        is_there_GE = (at_G1 < HEADS) & (at_1E < VALUE) & is_row
        value_GE = tl.load(values + row * value_row + at_G1 * value_head + at_1E, mask=is_there_GE)
        to_G1 = value_pool + page * value_pool_page + at_G1 * value_pool_head
        to_G1 += slot * value_pool_slot
        tl.store(to_G1 + at_1E, value_GE.to(value_pool.dtype.element_ty), mask=is_there_GE)


def store(pages: LayerPages, keys_TGC: Tensor, values_TGE: Tensor | None) -> None:
    """Write each row's key and value to its place, in one launch."""
    rows, kv = pages.rows, pages.kv
    _check(rows)
    values = keys_TGC if values_TGE is None else values_TGE
    keys, values = (x if x.stride(2) == 1 else x.contiguous() for x in (keys_TGC, values))
    _store.launch(
        (len(keys), 1 if values_TGE is None else 2),
        keys,
        *keys.stride()[:2],
        kv.keys_PGBC,
        *kv.keys_PGBC.stride()[:3],
        values,
        *values.stride()[:2],
        kv.values_PGBE,
        *kv.values_PGBE.stride()[:3],
        rows.sequence_T,
        rows.position_T,
        rows.pages_SN,
        rows.pages_SN.stride(0),
        HEADS=keys.shape[1],
        KEY=keys.shape[2],
        VALUE=values.shape[2],
        PAGE=kv.page_tokens,
        HEAD_BLOCK=padded(keys.shape[1]),
        KEY_BLOCK=padded(keys.shape[2]),
        VALUE_BLOCK=padded(values.shape[2]),
    )


def _check(rows: Rows) -> None:
    parts = (rows.sequence_T, rows.position_T, rows.pages_SN)
    if any(
        part.dtype is not torch.int32 or (part.shape[-1] > 1 and part.stride(-1) != 1)
        for part in parts
    ):
        raise ValueError("rows and pages are contiguous int32")
