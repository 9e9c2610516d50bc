"""Latent attention (MLA, DeepSeek-V2): one small vector a token instead of keys and values.

The matrices that would make keys and values of it are applied to queries and outputs instead, so
that a step reads the latent alone; the sums are the same but for rounding.
Legend: T rows, D hidden, H heads, N and R dimensions of a query without and with rotation, L of the
latent, V of a head's value, Q of the query's own latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lite_llm.kernels import LayerPages, attend, grouped_linear, linear, rms_norm, rotate, store
from lite_llm.kvcache import LayerKv
from lite_llm.models.architecture import Weight
from lite_llm.models.rope import RopeConfig, Rotation

LATENT_EPSILON: Final = 1e-6  # of the norms of both latents, whatever the model's is
_NAME: Final = "self_attn"


@dataclass(frozen=True, kw_only=True)
class LatentAttentionConfig:
    """Sizes of one layer's latent attention."""

    hidden_size: int
    heads: int
    query_rank: int | None
    """Q; None: queries come straight from the hidden state."""
    rank: int
    """L."""
    plain_dim: int
    """N."""
    rope: RopeConfig
    """Turns the other dimensions of a query, all R of them, and one key for all heads."""
    value_dim: int
    scale: float
    """Of scores."""
    interleaved: bool = True
    """Turned dimensions are stored in pairs: 2 i with 2 i + 1."""
    bias: bool = False
    """On what comes from the hidden state, except queries without a latent, and on the output."""

    @property
    def kv(self) -> LayerKv:
        """The latent and the turned key of a token."""
        return LayerKv(
            kv_heads=1, key_dim=self.rank + self.rope.dim, value_dim=self.rank, shared=True
        )

    def weights(self) -> dict[str, Weight]:
        """By name within the layer."""
        hidden, latent = self.hidden_size, self.rank + self.rope.dim
        queries = self.heads * (self.plain_dim + self.rope.dim)
        shapes: dict[str, tuple[int, ...]] = {}
        biased = {"kv_a_proj_with_mqa": latent, "o_proj": hidden}
        if self.query_rank is None:
            shapes["q_proj.weight"] = (queries, hidden)
        else:
            shapes["q_a_proj.weight"] = (self.query_rank, hidden)
            shapes["q_a_layernorm.weight"] = (self.query_rank,)
            shapes["q_b_proj.weight"] = (queries, self.query_rank)
            biased["q_a_proj"] = self.query_rank
        shapes["kv_a_proj_with_mqa.weight"] = (latent, hidden)
        shapes["kv_a_layernorm.weight"] = (self.rank,)
        shapes["kv_b_proj.weight"] = (self.heads * (self.plain_dim + self.value_dim), self.rank)
        shapes["o_proj.weight"] = (hidden, self.heads * self.value_dim)
        if self.bias:
            shapes |= {f"{part}.bias": (rows,) for part, rows in biased.items()}
        return {f"{_NAME}.{part}": Weight(shape) for part, shape in shapes.items()}

    def build(self, tensors: Mapping[str, Tensor]) -> LatentAttention:
        """Over the tensors of :meth:`weights`."""
        return LatentAttention(self, tensors)


class LatentAttention:
    """One layer's latent attention with its weights."""

    def __init__(self, config: LatentAttentionConfig, tensors: Mapping[str, Tensor]) -> None:
        def weight(part: str) -> tuple[Tensor, Tensor | None]:
            name = f"{_NAME}.{part}"
            return tensors[f"{name}.weight"], tensors.get(f"{name}.bias")

        self._config = config
        self._has_query_latent = config.query_rank is not None
        if self._has_query_latent:
            self._query_down = weight("q_a_proj")
            self._query_norm_Q = tensors[f"{_NAME}.q_a_layernorm.weight"]
        self._query = weight("q_b_proj" if self._has_query_latent else "q_proj")
        self._latent = weight("kv_a_proj_with_mqa")
        self._latent_norm_L = tensors[f"{_NAME}.kv_a_layernorm.weight"]
        up_HML = tensors[f"{_NAME}.kv_b_proj.weight"].view(config.heads, -1, config.rank)
        self._key_up_LN = up_HML[:, : config.plain_dim].transpose(1, 2).contiguous().unbind()
        self._value_up_VL = up_HML[:, config.plain_dim :].unbind()
        self._output = weight("o_proj")

    def __call__(self, x_TD: Tensor, rotation: Rotation | None, pages: LayerPages) -> Tensor:
        """``[T, D]``; the rows' latents are in ``pages`` afterwards."""
        assert rotation is not None
        config = self._config
        plain_THN, turned_THR = self._queries(x_TD, rotation)
        latent_TL, key_TR = torch.split(
            linear(x_TD, *self._latent), [config.rank, config.rope.dim], dim=-1
        )
        latent_TL = rms_norm(latent_TL, self._latent_norm_L, LATENT_EPSILON)
        key_T1R = self._turned(key_TR[:, None], rotation)
        store(pages, torch.cat((latent_TL[:, None], key_T1R), dim=-1), None)
        queries_THL = _by_head(plain_THN, self._key_up_LN)
        out_THL = attend(torch.cat((queries_THL, turned_THR), dim=-1), pages, scale=config.scale)
        return linear(_by_head(out_THL, self._value_up_VL).flatten(1), *self._output)

    def _queries(self, x_TD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        if self._has_query_latent:
            x_TD = rms_norm(linear(x_TD, *self._query_down), self._query_norm_Q, LATENT_EPSILON)
        config = self._config
        queries_THC = linear(x_TD, *self._query).view(len(x_TD), config.heads, -1)
        plain_THN, turned_THR = torch.split(
            queries_THC, [config.plain_dim, config.rope.dim], dim=-1
        )
        return plain_THN, self._turned(turned_THR, rotation)

    def _turned(self, x_THR: Tensor, rotation: Rotation) -> Tensor:
        if self._config.interleaved:  # scores don't know the order, if queries and keys share it
            x_THR = torch.cat((x_THR[..., 0::2], x_THR[..., 1::2]), dim=-1)
        return rotate(x_THR, rotation.cos_TR, rotation.sin_TR)


def _by_head(x_THK: Tensor, weights_NK: Sequence[Tensor]) -> Tensor:
    """Each head's rows times a weight of its own: ``[T, H, N]``."""
    rows, heads = x_THK.shape[:2]
    x_SK = x_THK.transpose(0, 1).reshape(heads * rows, -1)
    return grouped_linear(x_SK, weights_NK, [rows] * heads).view(heads, rows, -1).transpose(0, 1)
