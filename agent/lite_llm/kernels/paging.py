"""Keys and values in pages, and where each row of a step belongs.

Legend: T rows (new tokens of all sequences of a step), S sequences, N pages of the longest one,
P pages of a pool, B tokens of a page, G key heads, C and E dimensions of a key and a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lite_llm.kernels import rowwise
from lite_llm.kernels.cuda_tensors import on_gpu
from lite_llm.kernels.threads import chunk_rows, layout, table_of
from lite_llm.kernels.vector import KINDS

TILE_ROWS = 16
"""Rows of one sequence whose attention is computed together."""


@dataclass(frozen=True)
class PagedKv:
    """One layer's part of the pages of a pool: views, written in place."""

    keys_PGBC: Tensor
    values_PGBE: Tensor
    """Where values are the first E dimensions of keys (latent attention), a view of the keys."""

    @cached_property
    def layouts(self) -> tuple[list[int], list[int]]:
        """For kernels, of keys and of values: address, strides in bytes, kind, tokens, size."""
        keys, values = (
            [*layout(pool, 0, 1, 2), KINDS[pool.dtype], self.page_tokens, pool.shape[3]]
            for pool in (self.keys_PGBC, self.values_PGBE)
        )
        return keys, values

    @property
    def page_tokens(self) -> int:
        """B, the tokens that a page holds."""
        return self.keys_PGBC.shape[2]


@dataclass(frozen=True)
class Rows:
    """Of each row its sequence and its position; rows of one sequence are adjacent and ascend."""

    sequence_T: Tensor
    """int32; row of ``pages_SN``."""
    position_T: Tensor
    """int32, from 0: the token's place in its sequence."""
    pages_SN: Tensor
    """int32: page ``n`` of a sequence holds positions ``n * B`` to ``(n + 1) * B - 1``. Entries
    that no row attends to (behind the end, or before a sliding window) may be anything."""

    @cached_property
    def layout(self) -> list[int]:
        """For kernels: where sequences, positions, pages (and a sequence's stride) are, and tiles.

        :raises ValueError: a tensor is not int32, or not in rows.
        """
        parts = (self.sequence_T, self.position_T, self.pages_SN)
        if any(
            part.dtype is not torch.int32 or (part.shape[-1] > 1 and part.stride(-1) != 1)
            for part in parts
        ):
            raise ValueError("rows and pages are contiguous int32")
        positions = [self.sequence_T.data_ptr(), self.position_T.data_ptr()]
        return [*positions, *layout(self.pages_SN, 0), self.tiles_X2.data_ptr()]

    @cached_property
    def tiles_X2(self) -> Tensor:
        """int32: first row and number of rows, of one sequence each, covering all rows."""
        sequence_T = self.sequence_T.cpu().numpy()
        rows = len(sequence_T)
        changes = np.flatnonzero(np.diff(sequence_T)) + 1
        ends = np.append(changes, rows) if rows else changes
        begins = np.append(0, changes)[: len(ends)]
        firsts = [np.arange(begin, end, TILE_ROWS) for begin, end in zip(begins, ends, strict=True)]
        first_X = np.concatenate(firsts) if firsts else np.empty(0, np.int64)
        sizes_X = np.diff(np.append(first_X, rows))
        tiles_X2 = torch.from_numpy(np.stack((first_X, sizes_X), axis=1).astype(np.int32))
        return tiles_X2.to(self.sequence_T.device)


@dataclass(frozen=True)
class LayerPages:
    """What a layer's attention reads and writes in one step."""

    kv: PagedKv
    rows: Rows


def store(pages: LayerPages, keys_TGC: Tensor, values_TGE: Tensor | None) -> None:
    """Write each row's key and value to its place; ``None`` where values lie within keys."""
    if on_gpu(keys_TGC, pages.kv.keys_PGBC):
        from lite_llm.kernels import triton_paged

        triton_paged.store(pages, keys_TGC, values_TGE)
        return
    _store(pages, 0, pages.kv.keys_PGBC, keys_TGC)
    if values_TGE is not None:
        _store(pages, 1, pages.kv.values_PGBE, values_TGE)


def _store(pages: LayerPages, which: int, pool_PGBC: Tensor, x_TGC: Tensor) -> None:
    rows = pages.rows
    if not (x_TGC.is_cpu and x_TGC.dtype in KINDS and pool_PGBC.dtype in KINDS):
        slots = pages.kv.page_tokens
        position_T = rows.position_T.long()
        page_T = rows.pages_SN[rows.sequence_T.long(), position_T // slots].long()
        pool_PGBC[page_T, :, position_T % slots] = x_TGC.to(pool_PGBC.dtype)
        return
    if x_TGC.stride(2) != 1:
        x_TGC = x_TGC.contiguous()
    length, heads, size = x_TGC.shape
    chunk = chunk_rows(length, heads * size)
    rowwise.store.run(
        -(-length // chunk),
        length * heads * size,
        *layout(x_TGC, 0, 1),
        KINDS[x_TGC.dtype],
        heads,
        length,
        chunk,
        table_of(pages.kv.layouts[which] + rows.layout),
    )
