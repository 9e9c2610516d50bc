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

TILE_ROWS = 16
"""Rows of one sequence whose attention is computed together."""


@dataclass(frozen=True)
class PagedKv:
    """One layer's part of the pages of a pool: views, written in place."""

    keys_PGBC: Tensor
    values_PGBE: Tensor
    """Where values are the first E dimensions of keys (latent attention), a view of the keys."""

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
        return torch.from_numpy(np.stack((first_X, sizes_X), axis=1).astype(np.int32))


@dataclass(frozen=True)
class LayerPages:
    """What a layer's attention reads and writes in one step."""

    kv: PagedKv
    rows: Rows


def store(pages: LayerPages, keys_TGC: Tensor, values_TGE: Tensor | None) -> None:
    """Write each row's key and value to its place; ``None`` where values lie within keys."""
    rows, size = pages.rows, pages.kv.page_tokens
    position_T = rows.position_T.long()
    page_T = rows.pages_SN[rows.sequence_T.long(), position_T // size].long()
    pages.kv.keys_PGBC[page_T, :, position_T % size] = keys_TGC
    if values_TGE is not None:
        pages.kv.values_PGBE[page_T, :, position_T % size] = values_TGE
