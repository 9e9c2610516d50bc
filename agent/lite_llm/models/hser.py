"""HSER, our own architecture: a Llama whose feed-forward blocks choose a tier, then groups in it,
then experts in those (SPEC-004, SPEC-005; docs/hser.md).

Legend: T rows, D hidden, E experts of a layer, I tiers, S scores of a tier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.experts import (
    Bank,
    Gating,
    LayerExperts,
    Routed,
    TieredGate,
    TieredRouter,
    TierGate,
    Ties,
    TooFewExperts,
    check_layer,
)
from lite_llm.kernels import linear
from lite_llm.models.architecture import DecoderConfig, LayerConfig, Weight
from lite_llm.models.fields import Fields
from lite_llm.models.moe import GatedBy
from lite_llm.models.moe_fields import MAX_EXPERTS
from lite_llm.models.parsing import (
    read_activation,
    read_attention,
    read_decoder,
    read_ffn,
    read_head_dim,
)
from lite_llm.models.rope_fields import read_rope

MODEL_TYPE, ARCHITECTURE = "lite_llm_hser", "LiteLlmHserForCausalLM"


@dataclass(frozen=True, kw_only=True)
class TieredMoeConfig:
    """One layer's tiers of experts and their gates."""

    layer: int
    hidden_size: int
    inner_size: int
    """Of an expert."""
    gate: TieredGate
    gating: Gating
    routing_seed: int = 0

    @property
    def first_experts(self) -> tuple[int, ...]:
        """The number of each tier's first expert, and behind them that of all."""
        return (0, *accumulate(tier.experts for tier in self.gate.tiers))

    def weights(self) -> dict[str, Weight]:
        """A router for each tier, so that a tier that is added changes no tensor."""
        return {
            _router(number): Weight((tier.num_scores, self.hidden_size))
            for number, tier in enumerate(self.gate.tiers)
        }

    def check_experts(self, layer: int, experts: Sequence[ExpertRecord]) -> None:
        """All of them, in a layout that can be computed with."""
        check_layer(
            layer,
            experts,
            count=self.first_experts[-1],
            hidden_size=self.hidden_size,
            inner_size=self.inner_size,
        )

    def seeded(self, seed: int) -> TieredMoeConfig:
        """With another routing seed."""
        return replace(self, routing_seed=seed)

    def of_tiers(self, top_k: int) -> TieredMoeConfig:
        """With another number of tiers that a token chooses."""
        return replace(self, gate=replace(self.gate, top_k_tiers=top_k))

    def check_allowed(self, allowed_E: Tensor) -> None:
        """Raise :class:`TooFewExperts` unless a whole tier is left."""
        if not any(allowed_E[first:last].all() for first, last in pairwise(self.first_experts)):
            raise TooFewExperts(
                f"layer {self.layer} needs a tier",
                where="lite_llm.tier_set",
                remedy="choose more tiers",
            )

    def build(self, tensors: Mapping[str, Tensor], experts: Bank) -> TieredMoeBlock:
        """Over the tensors of :meth:`weights` and the experts."""
        return TieredMoeBlock(self, tensors, experts)


class TieredMoeBlock:
    """Tiers of experts with their weights."""

    def __init__(
        self, config: TieredMoeConfig, tensors: Mapping[str, Tensor], experts: Bank
    ) -> None:
        self._tiers = tuple(pairwise(config.first_experts))
        self._routers_SD = [tensors[_router(number)] for number in range(len(self._tiers))]
        ties = Ties.of_layer(config.layer, config.routing_seed)
        self._router = TieredRouter(config.gate, ties, self._routers_SD[0].device)
        self.experts = LayerExperts(config.layer, experts, config.gating)

    def __call__(self, x_TD: Tensor, mask_TE: Tensor | None = None) -> Tensor:
        """``[T, D]``. A tier is allowed where all of its experts are."""
        return self.experts(x_TD, self.route(x_TD, mask_TE))

    def route(self, x_TD: Tensor, mask_TE: Tensor | None = None) -> Routed:
        """Which experts each row chooses."""
        allowed_TI, is_used = None, [True] * len(self._tiers)
        if mask_TE is not None:
            allowed = [mask_TE[:, first:last].all(1) for first, last in self._tiers]
            allowed_TI = torch.stack(allowed, dim=1)
            if allowed_TI.any():  # else the router says for which rows nothing is left
                is_used = allowed_TI.any(0).tolist()
        # A product for each tier: whether another one is computed can't move a bit.
        scores = [
            linear(x_TD, router_SD, out_dtype=torch.float32) if used else None
            for router_SD, used in zip(self._routers_SD, is_used, strict=True)
        ]
        return self._router.route(scores, allowed_TI=allowed_TI)


def hser(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``LiteLlmHserForCausalLM``."""
    fields.only("model_type", MODEL_TYPE)
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    attention = read_attention(fields, rope=rope)
    gate = _read_gate(fields)
    num_dense = fields.count("first_k_dense_replace", 0, minimum=0)
    dense = read_ffn(fields) if num_dense else None
    fields.ignore("intermediate_size")  # of dense layers, where there are any

    def layer(number: int) -> LayerConfig:
        if dense is not None and number < num_dense:
            return LayerConfig(attention=attention, ffn=dense)
        tiered = TieredMoeConfig(
            layer=number,
            hidden_size=fields.count("hidden_size"),
            inner_size=fields.count("moe_intermediate_size"),
            gate=gate,
            gating=GatedBy(read_activation(fields)),
        )
        return LayerConfig(attention=attention, ffn=tiered)

    return read_decoder(fields, family=MODEL_TYPE, layer=layer, context_tokens=context_tokens)


def _read_gate(fields: Fields) -> TieredGate:
    listed = fields.items("tiers")
    if not listed or not all(isinstance(tier, dict) for tier in listed):
        fields.wrong("tiers", "it must list at least one tier, each an object")
    tiers = tuple(_read_tier(Fields(tier)) for tier in listed)
    if sum(tier.experts for tier in tiers) > MAX_EXPERTS:
        fields.wrong("tiers", f"at most {MAX_EXPERTS} experts are possible in a layer")
    top_k_tiers = fields.count("top_k_tiers", 1)
    if top_k_tiers > len(tiers):
        fields.wrong("top_k_tiers", f"there are {len(tiers)} tiers")
    return TieredGate(
        tiers=tiers, top_k_tiers=top_k_tiers, normalized=fields.flag("norm_topk_prob")
    )


def _read_tier(tier: Fields) -> TierGate:
    tier.text("name", "")
    gate = TierGate(
        groups=tier.count("groups"),
        experts_per_group=tier.count("experts_per_group"),
        top_k_groups=tier.count("top_k_groups", 1),
        top_k_experts=tier.count("top_k_experts", 1),
    )
    if gate.top_k_groups > gate.groups:
        tier.wrong("top_k_groups", f"the tier has {gate.groups} groups")
    if gate.top_k_experts > gate.experts_per_group:
        tier.wrong("top_k_experts", f"a group has {gate.experts_per_group} experts")
    tier.finish()
    return gate


def _router(tier: int) -> str:
    return f"mlp.tiers.{tier}.router.weight"
