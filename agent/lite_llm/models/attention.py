"""Grouped-query attention over pages.

Legend: T rows, D hidden, H query heads, G key heads, C dimensions of a head, Q = H * C, K = G * C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lite_llm.kernels import LayerPages, attend, linear, linears, rms_norm, rotate, store
from lite_llm.kvcache import LayerKv
from lite_llm.models.architecture import NormConfig, Weight
from lite_llm.models.rope import RopeConfig, Rotation

_NAME = "self_attn"  # within the layer, in every family


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Sizes and variants of one layer's attention."""

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    """Of scores, before any soft cap."""
    rope: RopeConfig | None
    window: int | None = None
    """Tokens that a query sees, itself included; None: all."""
    softcap: float | None = None
    bias: bool = False
    """On queries, keys and values."""
    output_bias: bool = False
    qk_norm: NormConfig | None = None
    """Queries and keys are normalised before they are turned."""
    qk_norm_wide: bool = False
    """Over all heads together (OLMoE) and not each by itself (Qwen3)."""
    sinks: bool = False
    """Each head has a score that takes its share and gives nothing (GPT-OSS)."""

    @property
    def kv(self) -> LayerKv:
        """What a token leaves behind."""
        return LayerKv(
            kv_heads=self.kv_heads,
            key_dim=self.head_dim,
            value_dim=self.head_dim,
            window=self.window,
        )

    def weights(self) -> dict[str, Weight]:
        """By name within the layer."""
        hidden, name = self.hidden_size, _NAME
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        weights = {f"{name}.{part}.weight": Weight((rows[part], hidden)) for part in rows}
        if self.bias:
            weights |= {f"{name}.{part}.bias": Weight((rows[part],)) for part in rows}
        weights[f"{name}.o_proj.weight"] = Weight((hidden, queries))
        if self.output_bias:
            weights[f"{name}.o_proj.bias"] = Weight((hidden,))
        if self.qk_norm is not None:
            wide = self.qk_norm_wide
            weights[f"{name}.q_norm.weight"] = Weight((queries if wide else self.head_dim,))
            weights[f"{name}.k_norm.weight"] = Weight((keys if wide else self.head_dim,))
        if self.sinks:
            weights[f"{name}.sinks"] = Weight((self.heads,))
        return weights

    def build(self, tensors: Mapping[str, Tensor]) -> GroupedQueryAttention:
        """Over the tensors of :meth:`weights`."""
        return GroupedQueryAttention(self, tensors)


class GroupedQueryAttention:
    """One layer's attention with its weights."""

    recordable = True

    def __init__(self, config: AttentionConfig, tensors: Mapping[str, Tensor]) -> None:
        def of(part: str) -> Tensor | None:
            return tensors.get(f"{_NAME}.{part}")

        def weight(part: str) -> tuple[Tensor, Tensor | None]:
            return tensors[f"{_NAME}.{part}.weight"], of(f"{part}.bias")

        self._config = config
        self._inputs = weight("q_proj"), weight("k_proj"), weight("v_proj")
        self._output = weight("o_proj")
        self._query_norm, self._key_norm = of("q_norm.weight"), of("k_norm.weight")
        self._sinks_H = of("sinks")

    def __call__(self, x_TD: Tensor, rotation: Rotation | None, pages: LayerPages) -> Tensor:
        """``[T, D]``; the rows' keys and values are in ``pages`` afterwards."""
        config = self._config
        queries_TQ, keys_TK, values_TK = linears(x_TD, self._inputs)
        queries_THC = self._turned(queries_TQ, self._query_norm, rotation)
        keys_TGC = self._turned(keys_TK, self._key_norm, rotation)
        store(pages, keys_TGC, self._heads(values_TK))
        out_THC = attend(
            queries_THC,
            pages,
            scale=config.scale,
            window=config.window,
            softcap=config.softcap,
            sinks_H=self._sinks_H,
        )
        return linear(out_THC.flatten(1), *self._output)

    def _turned(self, x_TQ: Tensor, norm: Tensor | None, rotation: Rotation | None) -> Tensor:
        qk_norm, wide = self._config.qk_norm, self._config.qk_norm_wide
        x = x_TQ if wide else self._heads(x_TQ)
        if qk_norm is not None:
            x = rms_norm(x, norm, qk_norm.epsilon, plus_one=qk_norm.plus_one)
        x_THC = self._heads(x) if wide else x
        return x_THC if rotation is None else rotate(x_THC, rotation.cos_TR, rotation.sin_TR)

    def _heads(self, x_TQ: Tensor) -> Tensor:
        return x_TQ.view(len(x_TQ), -1, self._config.head_dim)
