"""Tier, group, expert with gradients, and how evenly they are used (SPEC-005, SPEC-032).

The choice is the serving router's up to ties, which scores in float32 don't have in practice.
Legend: T rows, I tiers, G groups of a tier, M experts of a group, K slots of a row, S scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lite_llm.experts import TieredGate, TierGate


@dataclass(frozen=True)
class Gated:
    """What the gates of one layer decided."""

    experts_TK: Tensor
    """Numbers through all tiers, -1 in slots of tiers that a row did not choose."""
    weights_TK: Tensor
    balance: Tensor
    """Sum over the gates of KL(usage || uniform), a scalar with gradients."""


def choose(scores_TS: Tensor, gate: TieredGate, allowed_TI: Tensor) -> Gated:
    """By every tier's scores, one behind the other; each row may use what ``allowed_TI`` says."""
    tiers = gate.tiers
    parts = torch.split(scores_TS, [tier.num_scores for tier in tiers], dim=1)
    tier_scores_TI = torch.stack([part[:, 0] for part in parts], dim=1)
    shares_TI = tier_scores_TI.masked_fill(~allowed_TI, -torch.inf).softmax(-1)
    best_TJ = shares_TI.topk(gate.top_k_tiers, dim=-1).indices
    chosen_TI = torch.zeros_like(allowed_TI).scatter(1, best_TJ, True) & allowed_TI
    free_T = allowed_TI.all(1)  # elsewhere the mask decides, not the gate
    balance = _imbalance(shares_TI, chosen_TI, free_T)
    firsts = accumulate((tier.experts for tier in tiers), initial=0)
    experts, weights = [], []
    for number, (tier, first) in enumerate(zip(tiers, firsts, strict=False)):
        is_chosen_T1 = chosen_TI[:, number, None]
        experts_TK, weights_TK, uneven = _within(tier, parts[number], is_chosen_T1)
        balance = balance + uneven
        experts.append(torch.where(is_chosen_T1, experts_TK + first, -1))
        weights.append((weights_TK * shares_TI[:, number, None]).masked_fill(~is_chosen_T1, 0.0))
    weights_TK = torch.cat(weights, 1)
    if gate.normalized:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    return Gated(torch.cat(experts, 1), weights_TK, balance)


def _within(tier: TierGate, scores_TS: Tensor, counts_T1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Experts of the tier and their shares, and how unevenly the rows that count use them."""
    _, scores_TG, scores_TE = torch.split(scores_TS, [1, tier.groups, tier.experts], dim=1)
    shares_TG = scores_TG.softmax(-1)
    groups_TH = shares_TG.topk(tier.top_k_groups, dim=-1).indices
    shares_TGM = scores_TE.reshape(len(scores_TE), tier.groups, -1).softmax(-1)
    shares_THM = shares_TGM.gather(1, groups_TH[..., None].expand(-1, -1, tier.experts_per_group))
    shares_THN, chosen_THN = shares_THM.topk(tier.top_k_experts, dim=-1)
    experts_THN = groups_TH[..., None] * tier.experts_per_group + chosen_THN
    weights_THN = shares_THN * shares_TG.gather(1, groups_TH)[..., None]

    used_TG = torch.zeros_like(shares_TG, dtype=torch.bool).scatter(1, groups_TH, True)
    balance = _imbalance(shares_TG, used_TG, counts_T1[:, 0])
    used_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter(1, experts_THN.flatten(1), True)
    used_TGM = used_TE.reshape(len(used_TE), tier.groups, -1)
    for group in range(tier.groups):
        rows_T = counts_T1[:, 0] & used_TG[:, group]
        uneven = _imbalance(shares_TGM[:, group], used_TGM[:, group], rows_T)
        balance = balance + uneven / tier.groups
    return experts_THN.flatten(1), weights_THN.flatten(1), balance


def _imbalance(shares_TC: Tensor, used_TC: Tensor, counts_T: Tensor) -> Tensor:
    """KL(usage || uniform) of one gate over the rows that count.

    Usage is how often each candidate was chosen; its gradient is that of the mean share, which is
    the nearest thing to it that has one.
    """
    candidates = shares_TC.shape[1]
    rows_T1 = counts_T[:, None]
    num_rows = counts_T.sum().clamp(min=1)
    share_C = (shares_TC * rows_T1).sum(0) / num_rows
    used_C = (used_TC & rows_T1).sum(0).float()
    used_C = used_C / used_C.sum().clamp(min=1)
    log_ratio_C = used_C.clamp(min=1e-3).log() + math.log(candidates)
    value = (used_C * log_ratio_C).sum()
    slope = (share_C * log_ratio_C).sum()
    return value + slope - slope.detach()
