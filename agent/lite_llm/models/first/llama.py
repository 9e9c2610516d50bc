"""Llama: the maths of one sequence on one device, and the names of its tensors.

Legend: T tokens, D hidden, H query heads, G key heads, C dimensions of a head, Q = H * C,
K = G * C, F inner size of the feed-forward block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.models.first.attention import LayerCache, attend
from lite_llm.models.first.config import LlamaConfig
from lite_llm.models.first.norm import rms_norm
from lite_llm.models.first.rope import Rotation, frequencies, rotation


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, as rows of outputs over columns of inputs."""

    attention_norm_D: Tensor
    query_QD: Tensor
    key_KD: Tensor
    value_KD: Tensor
    output_DQ: Tensor
    ffn_norm_D: Tensor
    gate_FD: Tensor
    up_FD: Tensor
    down_DF: Tensor


class SequenceCache:
    """What every layer remembers of one sequence."""

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Tokens remembered."""
        return self.layers[-1].length


class Llama:
    """Weights and the forward pass; holds no state of any sequence."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        embedding_VD: Tensor,
        layers: list[Layer],
        norm_D: Tensor,
        head_VD: Tensor,
    ) -> None:
        self.config = config
        self.embedding_VD = embedding_VD
        self.layers = layers
        self.norm_D = norm_D
        self.head_VD = head_VD
        self._frequencies_P = frequencies(config.rope, config.head_dim)

    def new_cache(self) -> SequenceCache:
        """For a sequence that begins."""
        return SequenceCache(len(self.layers))

    @torch.inference_mode()
    def hidden(self, tokens_T: Tensor, cache: SequenceCache) -> Tensor:
        """Run the tokens that follow those in ``cache``, and remember them: ``[T, D]``."""
        x_TD = self.embedding_VD[tokens_T]
        positions_T = torch.arange(cache.length, cache.length + len(tokens_T))
        rotate = rotation(self._frequencies_P, positions_T, x_TD.dtype)
        epsilon = self.config.norm_epsilon
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            normed_TD = rms_norm(x_TD, layer.attention_norm_D, epsilon)
            x_TD = x_TD + self._attention(layer, normed_TD, rotate, layer_cache)
            x_TD = x_TD + _ffn(layer, rms_norm(x_TD, layer.ffn_norm_D, epsilon))
        return rms_norm(x_TD, self.norm_D, epsilon)

    @torch.inference_mode()
    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Of the token after each: ``[T, V]``, float32."""
        return functional.linear(hidden_TD, self.head_VD).to(torch.float32)

    def _attention(self, layer: Layer, x_TD: Tensor, rotate: Rotation, cache: LayerCache) -> Tensor:
        heads = (len(x_TD), -1, self.config.head_dim)
        queries_THC = rotate(functional.linear(x_TD, layer.query_QD).view(heads))
        keys_TGC = rotate(functional.linear(x_TD, layer.key_KD).view(heads))
        values_TGC = functional.linear(x_TD, layer.value_KD).view(heads)
        out_THC = attend(queries_THC, *cache.append(keys_TGC, values_TGC))
        return functional.linear(out_THC.flatten(1), layer.output_DQ)


def _ffn(layer: Layer, x_TD: Tensor) -> Tensor:
    gate_TF = functional.silu(functional.linear(x_TD, layer.gate_FD))
    return functional.linear(gate_TF * functional.linear(x_TD, layer.up_FD), layer.down_DF)
