"""Tier, group, expert: three softmaxes and three choices (HSER, SPEC-005).

Legend: T rows, I tiers, G groups of a tier, M experts of a group, J, H and N chosen of them;
K slots a row: as many as the most expensive tiers can fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.experts.reduction import row_sum, softmax
from lite_llm.experts.routing import Routed
from lite_llm.experts.selection import check_enough, check_finite, top
from lite_llm.experts.ties import Level, Ties


@dataclass(frozen=True, kw_only=True)
class TierGate:
    """Of one tier: its size, and how much of it a token that chose it uses."""

    groups: int
    experts_per_group: int
    top_k_groups: int = 1
    top_k_experts: int = 1

    @property
    def experts(self) -> int:
        return self.groups * self.experts_per_group

    @property
    def active_experts(self) -> int:
        return self.top_k_groups * self.top_k_experts

    @property
    def num_scores(self) -> int:
        """The tier's own, one for each group, one for each expert, in this order."""
        return 1 + self.groups + self.experts


@dataclass(frozen=True, kw_only=True)
class TieredGate:
    """Of a layer. Experts are numbered through all tiers, tier by tier and group by group."""

    tiers: tuple[TierGate, ...]
    top_k_tiers: int = 1
    """At most: as many as there are, where fewer are allowed."""
    normalized: bool = False
    """Weights are divided by their sum."""

    @property
    def slots(self) -> int:
        """K: experts of a token at most."""
        active = sorted((tier.active_experts for tier in self.tiers), reverse=True)
        return sum(active[: self.top_k_tiers])


class TieredRouter:
    """A tiered gate with the seeded order of one layer's tiers, groups and experts."""

    def __init__(self, gate: TieredGate, ties: Ties, device: torch.device | None = None) -> None:
        self.gate = gate
        self._layer = ties.layer
        tiers = gate.tiers
        self._first_expert = (0, *accumulate(tier.experts for tier in tiers))
        self._tier_precedence_I = ties.precedence(Level.TIER, len(tiers), device)
        groups = ties.precedence(Level.GROUP, sum(tier.groups for tier in tiers), device)
        experts = ties.precedence(Level.EXPERT, self._first_expert[-1], device)
        self._group_precedence = torch.split(groups, [tier.groups for tier in tiers])
        self._expert_precedence = torch.split(experts, [tier.experts for tier in tiers])

    def route(self, scores: Sequence[Tensor | None], *, allowed_TI: Tensor | None = None) -> Routed:
        """Choose by each tier's float32 scores ``[T, TierGate.num_scores]``.

        A tier that no row may use needs no scores. Each gate's softmax is taken over what is
        allowed, and an expert's weight is the product of its three shares. Raises
        :class:`ScoresNotFinite` and :class:`TooFewExperts`.
        """
        given = [one for one in scores if one is not None]
        for one in given:
            check_finite(one, self._layer)
        absent_T = given[0].new_full((len(given[0]),), -torch.inf)
        tier_scores_TI = torch.stack(
            [absent_T if one is None else one[:, 0] for one in scores], dim=1
        )
        if allowed_TI is not None:
            tier_scores_TI = tier_scores_TI.masked_fill(~allowed_TI, -torch.inf)
        check_enough(tier_scores_TI.amax(1, keepdim=True), self._layer, "tier")
        chosen_TJ = top(tier_scores_TI, self._tier_precedence_I, self.gate.top_k_tiers)
        is_chosen_TI = torch.zeros_like(tier_scores_TI, dtype=torch.bool)
        is_chosen_TI = is_chosen_TI.scatter(1, chosen_TJ, True) & ~tier_scores_TI.isneginf()
        shares_TI = softmax(tier_scores_TI)
        experts, weights = [], []
        for number, tier_scores in enumerate(scores):
            if tier_scores is not None:
                experts_TK, weights_TK = self._within(number, tier_scores)
                is_chosen_T1 = is_chosen_TI[:, number, None]
                experts.append(torch.where(is_chosen_T1, experts_TK, -1))
                weights_TK = weights_TK * shares_TI[:, number, None]
                weights.append(weights_TK.masked_fill(~is_chosen_T1, 0.0))
        return self._compact(torch.cat(experts, 1), torch.cat(weights, 1))

    def _within(self, number: int, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The experts that each row uses if it chooses the tier, ascending, and their shares."""
        tier = self.gate.tiers[number]
        _, scores_TG, scores_TE = torch.split(scores, [1, tier.groups, tier.experts], dim=1)
        groups_TH = (
            top(scores_TG, self._group_precedence[number], tier.top_k_groups).sort(-1).values
        )
        shares_TH = softmax(scores_TG).gather(1, groups_TH)
        precedence_THM = self._expert_precedence[number].view(tier.groups, -1)[groups_TH]
        scores_THM = scores_TE.reshape(len(scores), tier.groups, -1).gather(
            1, groups_TH[..., None].expand(-1, -1, tier.experts_per_group)
        )
        chosen_THN = top(scores_THM, precedence_THM, tier.top_k_experts).sort(-1).values
        shares_THN = softmax(scores_THM).gather(-1, chosen_THN) * shares_TH[..., None]
        experts_THN = groups_TH[..., None] * tier.experts_per_group + chosen_THN
        return experts_THN.flatten(1) + self._first_expert[number], shares_THN.flatten(1)

    def _compact(self, experts_TC: Tensor, weights_TC: Tensor) -> Routed:
        """Of the candidates the K slots: experts ascending, then -1."""
        last = self._first_expert[-1]
        order_TC = torch.where(experts_TC < 0, last, experts_TC).argsort(dim=-1, stable=True)
        slots = self.gate.slots
        order_TK = order_TC[:, :slots]
        missing = slots - order_TK.shape[1]  # where tiers without scores were left out
        weights_TK = weights_TC.gather(1, order_TK)
        if self.gate.normalized:
            weights_TK = weights_TK / row_sum(weights_TK)
        return Routed(
            functional.pad(experts_TC.gather(1, order_TK), (0, missing), value=-1),
            functional.pad(weights_TK, (0, missing)),
            complete=False,
        )
