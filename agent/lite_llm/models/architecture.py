"""What a decoder is made of, as data: a family turns ``config.json`` into these values.

Whatever computes attention or a feed-forward block describes itself by a frozen configuration that
knows its tensors and builds its computation; the decoder knows only the protocols below.
Legend: T rows of a step, D hidden, E experts of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.experts import Bank
from lite_llm.kernels import LayerPages
from lite_llm.kvcache import KvLayout, LayerKv
from lite_llm.models.rope import RopeConfig, Rotation


@dataclass(frozen=True)
class Weight:
    """What a block asks of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    """To compute with; None: the model's."""


class AttentionBlock(Protocol):
    """One layer's attention with its weights."""

    def __call__(self, x_TD: Tensor, rotation: Rotation | None, pages: LayerPages) -> Tensor:
        """Stores the rows' keys and values in ``pages``, then attends: ``[T, D]``."""


class FfnBlock(Protocol):
    """One layer's feed-forward block, or experts in its place, with weights."""

    def __call__(self, x_TD: Tensor, mask_TE: Tensor | None) -> Tensor:
        """``[T, D]``. ``mask_TE``, bool: the experts that each row may use, None for all."""


class Attention(Protocol):
    """Configuration of a layer's attention."""

    @property
    def kv(self) -> LayerKv:
        """What it remembers of a token."""

    @property
    def rope(self) -> RopeConfig | None:
        """What its rotation is made from; None if it has none."""

    def weights(self) -> Mapping[str, Weight]:
        """Its tensors by their names within the layer."""

    def build(self, tensors: Mapping[str, Tensor]) -> AttentionBlock:
        """The computation, over the tensors of :meth:`weights`."""


class Ffn(Protocol):
    """Configuration of a layer's feed-forward block."""

    def weights(self) -> Mapping[str, Weight]:
        """Its tensors, other than its experts', by their names within the layer."""

    def check_experts(self, layer: int, experts: Sequence[ExpertRecord]) -> None:
        """Before any byte is read: :class:`Corrupt` or :class:`Unsupported` names what is wrong.

        ``experts`` are the layer's in the manifest, sorted by key; none for a dense block.
        """

    def build(self, tensors: Mapping[str, Tensor], experts: Bank) -> FfnBlock:
        """The computation, over the tensors of :meth:`weights` and the experts, by router row."""


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """Root-mean-square normalisation."""

    epsilon: float
    plus_one: bool = False
    """Weights are stored less one (Gemma)."""


@dataclass(frozen=True)
class Norms:
    """The norms around a block, by their tensors' names within the layer, without ``.weight``."""

    before: str
    after: str | None = None
    """Applied to the block's output, before it joins the residual stream (Gemma)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that there are."""
        return (self.before,) if self.after is None else (self.before, self.after)


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer: ``x = x + after(block(before(x)))``, twice."""

    attention: Attention
    ffn: Ffn
    attention_norms: Norms = Norms("input_layernorm")
    ffn_norms: Norms = Norms("post_attention_layernorm")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A whole model; sizes are counts unless said otherwise."""

    family: str
    vocab_size: int
    hidden_size: int
    context_tokens: int
    """Positions that are served: prompt and answer together."""
    dtype: torch.dtype
    """Of weights and activations."""
    norm: NormConfig
    layers: tuple[LayerConfig, ...]
    tied: bool = False
    """The output head is the embedding."""
    eos_token_ids: frozenset[int] = frozenset()
    embedding_scale: float | None = None
    residual_scale: float | None = None
    """Multiplies what a block adds to the stream (Granite)."""
    logit_divisor: float | None = None
    logit_softcap: float | None = None
    """Logits z become ``cap * tanh(z / cap)``."""
    stored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stored tensors that hold several weights of a layer, row by row in this order, or one under
    another name; both sides within the layer and without ``.weight`` or ``.bias``."""
    extra_layers: int = 0
    """Layers stored behind the last one that a decoder does not run (multi-token prediction)."""

    @property
    def kv_layout(self) -> KvLayout:
        """What all layers remember of a token."""
        return KvLayout(tuple(layer.attention.kv for layer in self.layers), self.dtype)
