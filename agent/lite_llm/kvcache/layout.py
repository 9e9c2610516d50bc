"""What a model's layers want remembered of each token."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class LayerKv:
    """Of one layer. Layers that are equal can share pages' shape, those with one window a table."""

    kv_heads: int
    key_dim: int
    """Dimensions of a key's head."""
    value_dim: int
    window: int | None = None
    """Tokens that a query sees, itself included; None: all."""
    shared: bool = False
    """Values are the first ``value_dim`` dimensions of keys and need no room (latent attention)."""

    @property
    def elements(self) -> int:
        """Remembered of one token."""
        return self.kv_heads * (self.key_dim + (0 if self.shared else self.value_dim))


@dataclass(frozen=True)
class KvLayout:
    """Of a model, one entry a layer, first layer first."""

    layers: tuple[LayerKv, ...]
    dtype: torch.dtype
