"""The forward pass that all families share, over the rows of any number of sequences.

Legend: T rows of a step, D hidden, R rows whose logits are wanted, V vocabulary, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lite_llm.experts import StepRows
from lite_llm.kernels import LayerPages, add, linear, rms_norm
from lite_llm.kvcache import KvLayout
from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.replaying import Inputs, Recordable, Replays, Stage
from lite_llm.models.rope import RopeConfig, RopeTable, Rotation
from lite_llm.models.weights import Weights


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
        self._pass = _Pass(config, weights)
        self._replays = Replays()

    @property
    def kv_layout(self) -> KvLayout:
        """What each layer wants remembered of a token."""
        return self.config.kv_layout

    def drop(self) -> None:
        """Let go of all tensors; no step may be running."""
        self.weights.drop()
        self._replays = Replays()

    def prepare(self, device: torch.device) -> None:
        """Make all that a captured step has to find made, for every position that is served."""
        for table in self._tables.values():
            table.reserve(self.config.context_tokens, device)

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
        inputs = Inputs(rotations, pages)
        if expert_masks is None and self.weights.complete:
            self.weights.head()  # raises if they have been dropped
            replayed_TD = self._replays.run(x_TD, inputs, self._pass.stages)
            if replayed_TD is not None:
                return replayed_TD
        for stage in self._pass.stages(inputs, expert_masks):
            x_TD = stage.run(x_TD)
        return x_TD

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Of the token after each row that :meth:`hidden` gave: ``[R, V]``, float32."""
        logits_RV = linear(hidden_RD, self.weights.head().output_VD, out_dtype=torch.float32)
        if (divisor := self.config.logit_divisor) is not None:
            logits_RV = logits_RV / divisor
        if (cap := self.config.logit_softcap) is not None:
            logits_RV = cap * torch.tanh(logits_RV / cap)
        return logits_RV


@dataclass(frozen=True)
class _Pass:
    """From embedding to hidden state; each stage waits for its weights when it gets there."""

    config: DecoderConfig
    weights: Weights

    def stages(
        self, inputs: Inputs, masks: Sequence[Tensor | None] | None = None
    ) -> Iterator[Stage]:
        """Half a layer each, and the last norm."""
        for index, config in enumerate(self.config.layers):
            rope = config.attention.rope
            rotation = None if rope is None else inputs.rotations[rope]
            attends = partial(self._attend, index, rotation, inputs.pages[index])
            # No name for a layer: a failed step's traceback would keep it in memory.
            yield Stage(attends, isinstance(self.weights.get(index).attention, Recordable))
            mask_TE = None if masks is None else masks[index]
            feeds = partial(self._feed, index, mask_TE)
            yield Stage(feeds, isinstance(self.weights.get(index).ffn, Recordable))
        yield Stage(lambda x_TD: self._norm(x_TD, self.weights.head().norm_D), recordable=True)

    def _attend(
        self, index: int, rotation: Rotation | None, pages: LayerPages, x_TD: Tensor
    ) -> Tensor:
        layer = self.weights.get(index)
        added_TD = layer.attention(self._norm(x_TD, layer.before_attention_D), rotation, pages)
        if layer.after_attention_D is not None:
            added_TD = self._norm(added_TD, layer.after_attention_D)
        return self._join(x_TD, added_TD)

    def _feed(self, index: int, mask_TE: Tensor | None, x_TD: Tensor) -> Tensor:
        layer = self.weights.get(index)
        added_TD = layer.ffn(self._norm(x_TD, layer.before_ffn_D), mask_TE)
        if layer.after_ffn_D is not None:
            added_TD = self._norm(added_TD, layer.after_ffn_D)
        return self._join(x_TD, added_TD)

    def _norm(self, x_TD: Tensor, weight_D: Tensor) -> Tensor:
        norm = self.config.norm
        return rms_norm(x_TD, weight_D, norm.epsilon, plus_one=norm.plus_one)

    def _join(self, x_TD: Tensor, added_TD: Tensor) -> Tensor:
        scale = self.config.residual_scale
        return add(x_TD, added_TD, scale=1.0 if scale is None else scale)
