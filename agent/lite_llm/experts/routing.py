"""From a router's scores to experts and their weights, for every public family (SPEC-003, 005).

Legend: T rows, E experts of a layer, G groups of M experts each, K experts chosen a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.experts.reduction import row_sum, sigmoid, softmax
from lite_llm.experts.selection import check_enough, check_finite, top
from lite_llm.experts.ties import Level, Ties


class Scoring(StrEnum):
    """What an expert's weight is, before normalisation and scale."""

    SOFTMAX = "softmax"
    """Its share among all allowed experts."""
    CHOSEN_SOFTMAX = "chosen softmax"
    """Its share among the chosen ones."""
    SIGMOID = "sigmoid"
    """By itself; a bias may be added for the choice alone (DeepSeek-V3)."""


class GroupScore(StrEnum):
    """What speaks for a group of experts."""

    BEST = "best"
    """Its best expert (DeepSeek-V2)."""
    BEST_TWO = "best two"
    """The sum of its two best (DeepSeek-V3)."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A family's rule of choice."""

    top_k: int
    scoring: Scoring = Scoring.SOFTMAX
    normalized: bool = False
    """Weights are divided by their sum."""
    epsilon: float = 0.0
    """Added to that sum, where scores are sigmoids."""
    scale: float = 1.0
    groups: int = 1
    top_k_groups: int = 1
    """Experts are chosen, all together, from so many groups."""
    group_score: GroupScore = GroupScore.BEST
    fixed_point_bits: int | None = None
    """Behind the binary point, to round scores to before they are compared; None: not rounded,
    as Hugging Face's models expect."""


@dataclass(frozen=True)
class Routed:
    """Experts of each row in ascending order: the order in which their outputs are summed."""

    experts_TK: Tensor
    """int64; -1, behind the others, where a row has fewer than K."""
    weights_TK: Tensor
    """float32; 0 where there is no expert."""
    complete: bool = True
    """Every row has K experts."""


class Router:
    """A gate with the seeded order of one layer's experts."""

    def __init__(
        self, gate: Gate, num_experts: int, ties: Ties, device: torch.device | None = None
    ) -> None:
        """Raises :class:`InvalidSettings` if a token could want more experts than there are."""
        group_size, rest = divmod(num_experts, gate.groups)
        if rest or gate.top_k > group_size * gate.top_k_groups:
            raise InvalidSettings(
                f"{gate.top_k} of {num_experts} experts can't come from {gate.top_k_groups} of "
                f"{gate.groups} groups",
                where=f"layer {ties.layer}",
                remedy="choose no more experts than the chosen groups have",
            )
        self.gate = gate
        self._layer = ties.layer
        self._expert_precedence_E = ties.precedence(Level.EXPERT, num_experts, device)
        self._group_precedence_G = ties.precedence(Level.GROUP, gate.groups, device)

    def route(
        self, scores_TE: Tensor, *, bias_E: Tensor | None = None, allowed_TE: Tensor | None = None
    ) -> Routed:
        """Choose by float32 scores; ``bias_E`` moves the choice, but not the weights.

        Experts that ``allowed_TE`` forbids count as -inf, before any softmax. Raises
        :class:`ScoresNotFinite` and :class:`TooFewExperts`.
        """
        check_finite(scores_TE, self._layer)
        if allowed_TE is not None:
            scores_TE = scores_TE.masked_fill(~allowed_TE, -torch.inf)
        shares_TE = sigmoid(scores_TE) if self.gate.scoring is Scoring.SIGMOID else scores_TE
        keys_TE = shares_TE if bias_E is None else shares_TE + bias_E
        if allowed_TE is not None:  # a sigmoid of -inf is 0, which a negative bias would make best
            keys_TE = keys_TE.masked_fill(~allowed_TE, -torch.inf)
        experts_TK = self._choose(keys_TE, limited=allowed_TE is not None)
        return Routed(experts_TK, self._weights(scores_TE, shares_TE, experts_TK))

    def _choose(self, keys_TE: Tensor, *, limited: bool) -> Tensor:
        gate = self.gate
        if gate.fixed_point_bits is not None:
            keys_TE = (keys_TE * 2.0**gate.fixed_point_bits).round()
        if gate.groups > gate.top_k_groups:
            keys_TE = self._within_best_groups(keys_TE)
        experts_TK = top(keys_TE, self._expert_precedence_E, gate.top_k)
        if limited:
            check_enough(keys_TE.gather(1, experts_TK), self._layer)
        return experts_TK.sort(-1).values

    def _within_best_groups(self, keys_TE: Tensor) -> Tensor:
        keys_TGM = keys_TE.view(len(keys_TE), self.gate.groups, -1)
        group_keys_TG = _group_keys(keys_TGM, self.gate.group_score)
        chosen = top(group_keys_TG, self._group_precedence_G, self.gate.top_k_groups)
        kept_TG = torch.zeros_like(group_keys_TG, dtype=torch.bool).scatter_(1, chosen, True)
        return keys_TGM.masked_fill(~kept_TG[..., None], -torch.inf).flatten(1)

    def _weights(self, scores_TE: Tensor, shares_TE: Tensor, experts_TK: Tensor) -> Tensor:
        gate = self.gate
        if gate.scoring is Scoring.SIGMOID:
            weights_TK = shares_TE.gather(1, experts_TK)
            if gate.normalized:
                weights_TK = weights_TK / (row_sum(weights_TK) + gate.epsilon)
        elif gate.scoring is Scoring.SOFTMAX and not gate.normalized:
            weights_TK = softmax(scores_TE).gather(1, experts_TK)
        else:  # shares of all, once normalised, are the shares of those chosen
            weights_TK = softmax(scores_TE.gather(1, experts_TK))
        return weights_TK if gate.scale == 1.0 else weights_TK * gate.scale


def _group_keys(keys_TGM: Tensor, score: GroupScore) -> Tensor:
    if score is GroupScore.BEST or keys_TGM.shape[-1] == 1:
        return keys_TGM.amax(-1)
    best_TG, second_TG = keys_TGM.topk(2, dim=-1).values.unbind(-1)
    # A group with one allowed expert is worth that one; only an empty one is worth nothing.
    return best_TG + second_TG.masked_fill(second_TG.isneginf(), 0.0)
