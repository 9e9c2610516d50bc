"""Grouped-query attention of one sequence over its own cache.

Legend: T new tokens, N all tokens so far, H query heads, G key heads, C dimensions of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FIRST_ROOM = 64  # tokens; doubled when full, so that appending costs the same per token on average


class LayerCache:
    """Keys and values of one layer for the tokens of one sequence."""

    def __init__(self) -> None:
        self.length = 0
        self._keys_MGC: Tensor | None = None  # M tokens of room, at least N
        self._values_MGC: Tensor | None = None

    def append(self, keys_TGC: Tensor, values_TGC: Tensor) -> tuple[Tensor, Tensor]:
        """Remember the new tokens; returns views of all so far, ``[N, G, C]`` each."""
        begin, end = self.length, self.length + len(keys_TGC)
        self._keys_MGC = _with_room(self._keys_MGC, keys_TGC, begin, end)
        self._values_MGC = _with_room(self._values_MGC, values_TGC, begin, end)
        self._keys_MGC[begin:end] = keys_TGC
        self._values_MGC[begin:end] = values_TGC
        self.length = end
        return self._keys_MGC[:end], self._values_MGC[:end]


def attend(queries_THC: Tensor, keys_NGC: Tensor, values_NGC: Tensor) -> Tensor:
    """Each new token sees itself and everything before it: ``[T, H, C]``."""
    num_new, num_all = len(queries_THC), len(keys_NGC)
    mask_TN = None
    if num_new > 1:
        mask_TN = torch.ones(num_new, num_all, dtype=torch.bool).tril(num_all - num_new)
    out_HTC = functional.scaled_dot_product_attention(
        queries_THC.transpose(0, 1),
        keys_NGC.transpose(0, 1),
        values_NGC.transpose(0, 1),
        attn_mask=mask_TN,
        enable_gqa=True,
    )
    return out_HTC.transpose(0, 1)


def _with_room(store_MGC: Tensor | None, new_TGC: Tensor, used: int, needed: int) -> Tensor:
    if store_MGC is not None and needed <= len(store_MGC):
        return store_MGC
    room = max(needed, 2 * used, _FIRST_ROOM)
    grown_MGC = new_TGC.new_empty(room, *new_TGC.shape[1:])
    if store_MGC is not None:
        grown_MGC[:used] = store_MGC[:used]
    return grown_MGC
