"""The forward pass that all families share, over the rows of any number of sequences.

Legend: T rows of a step, D hidden, R rows whose logits are wanted, V vocabulary, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lite_llm.experts import StepRows
from lite_llm.kernels import LayerPages, linear, rms_norm
from lite_llm.kvcache import KvLayout
from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.rope import RopeConfig, RopeTable, Rotation
from lite_llm.models.weights import Layer, Weights


class Decoder:
    """A configuration with weights, which may still be arriving; holds no state of any sequence.

    For one thread at a time. A row's bits depend on its own sequence alone.
    """

    def __init__(
        self, config: DecoderConfig, weights: Weights, rows: StepRows | None = None
    ) -> None:
        """``rows`` is told each step's, where experts come as they are asked for."""
        self.config = config
        self.weights = weights
        self._rows = rows
        self._tables: dict[RopeConfig, RopeTable] = {}
        for layer in config.layers:
            if (rope := layer.attention.rope) is not None and rope not in self._tables:
                self._tables[rope] = RopeTable(rope)

    @property
    def kv_layout(self) -> KvLayout:
        """What each layer wants remembered of a token."""
        return self.config.kv_layout

    @torch.inference_mode()
    def hidden(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        pages: Sequence[LayerPages],
        *,
        expert_masks: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Run the rows through all layers, remembering them in ``pages``, one a layer: ``[T, D]``.

        ``tokens_T`` and ``positions_T`` are int64. ``expert_masks`` has for each layer the experts
        that each row may use, bool ``[T, E]``, or None for all. Waits for each layer's weights
        when it gets there, and raises what stopped their load.
        """
        if self._rows is not None:
            self._rows.begin(pages[0].rows.sequence_T)
        x_TD = self.weights.embedding()[tokens_T]
        if self.config.embedding_scale is not None:
            x_TD = x_TD * self.config.embedding_scale
        rotations = {rope: table(positions_T) for rope, table in self._tables.items()}
        for index, config in enumerate(self.config.layers):
            rope = config.attention.rope
            x_TD = self._layer(
                self.weights.get(index),
                x_TD,
                None if rope is None else rotations[rope],
                pages[index],
                None if expert_masks is None else expert_masks[index],
            )
        return self._norm(x_TD, self.weights.head().norm_D)

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Of the token after each row that :meth:`hidden` gave: ``[R, V]``, float32."""
        logits_RV = linear(hidden_RD, self.weights.head().output_VD, out_dtype=torch.float32)
        if (divisor := self.config.logit_divisor) is not None:
            logits_RV = logits_RV / divisor
        if (cap := self.config.logit_softcap) is not None:
            logits_RV = cap * torch.tanh(logits_RV / cap)
        return logits_RV

    def _layer(
        self,
        layer: Layer,
        x_TD: Tensor,
        rotation: Rotation | None,
        pages: LayerPages,
        mask_TE: Tensor | None,
    ) -> Tensor:
        added_TD = layer.attention(self._norm(x_TD, layer.before_attention_D), rotation, pages)
        if layer.after_attention_D is not None:
            added_TD = self._norm(added_TD, layer.after_attention_D)
        x_TD = self._join(x_TD, added_TD)
        added_TD = layer.ffn(self._norm(x_TD, layer.before_ffn_D), mask_TE)
        if layer.after_ffn_D is not None:
            added_TD = self._norm(added_TD, layer.after_ffn_D)
        return self._join(x_TD, added_TD)

    def _norm(self, x_TD: Tensor, weight_D: Tensor) -> Tensor:
        norm = self.config.norm
        return rms_norm(x_TD, weight_D, norm.epsilon, plus_one=norm.plus_one)

    def _join(self, x_TD: Tensor, added_TD: Tensor) -> Tensor:
        scale = self.config.residual_scale
        return x_TD + (added_TD if scale is None else added_TD * scale)
