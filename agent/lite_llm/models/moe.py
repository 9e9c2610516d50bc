"""A mixture of experts in place of a feed-forward block, with the experts that all tokens share.

Legend: T rows, D hidden, E experts of a layer, S packed rows, F inner size of an expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lite_llm.contracts.errors import Corrupt
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.experts import (
    Activity,
    Ahead,
    Bank,
    ExpertCache,
    Gate,
    Gating,
    LayerExperts,
    Observer,
    Routed,
    Router,
    Throttle,
    Ties,
    TooFewExperts,
    check_layer,
    sigmoid,
)
from lite_llm.kernels import Activation, gated, linear
from lite_llm.models.architecture import DecoderConfig, Ffn, FfnBlock, Weight
from lite_llm.models.ffn import FfnConfig


@dataclass(frozen=True)
class GatedBy:
    """``activation(gate) * up``."""

    activation: Activation

    def __call__(self, gate_SF: Tensor, up_SF: Tensor) -> Tensor:
        return gated(gate_SF, up_SF, self.activation)


@dataclass(frozen=True)
class ClampedSwiGlu:
    """``(up + 1) * gate * sigmoid(alpha * gate)`` of clamped values (GPT-OSS); rounded once."""

    alpha: float
    limit: float

    def __call__(self, gate_SF: Tensor, up_SF: Tensor) -> Tensor:
        gate32_SF = gate_SF.float().clamp(max=self.limit)
        up32_SF = up_SF.float().clamp(-self.limit, self.limit)
        return ((up32_SF + 1) * (gate32_SF * sigmoid(gate32_SF * self.alpha))).to(gate_SF.dtype)


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """One layer's experts, its router and what is shared."""

    layer: int
    hidden_size: int
    inner_size: int
    """Of an expert."""
    experts: int
    gate: Gate
    gating: Gating
    router: str
    """The router's name within the layer."""
    router_bias: bool = False
    expert_bias: bool = False
    choice_bias: str | None = None
    """Name of what is added to scores for the choice alone."""
    shared: FfnConfig | None = None
    """Experts that all tokens use, as one dense block."""
    shared_gate: str | None = None
    """Name of what scores them, by sigmoid (Qwen2)."""
    routing_seed: int = 0

    def weights(self) -> dict[str, Weight]:
        """By name within the layer; without the experts'."""
        weights = {f"{self.router}.weight": Weight((self.experts, self.hidden_size))}
        if self.router_bias:
            weights[f"{self.router}.bias"] = Weight((self.experts,))
        if self.choice_bias is not None:
            weights[self.choice_bias] = Weight((self.experts,), torch.float32)
        if self.shared is not None:
            weights |= self.shared.weights()
        if self.shared_gate is not None:
            weights[self.shared_gate] = Weight((1, self.hidden_size))
        return weights

    def check_experts(self, layer: int, experts: Sequence[ExpertRecord]) -> None:
        """All of them, in a layout that can be computed with."""
        check_layer(
            layer,
            experts,
            count=self.experts,
            hidden_size=self.hidden_size,
            inner_size=self.inner_size,
            biased=self.expert_bias,
        )

    def seeded(self, seed: int) -> MoeConfig:
        """With another routing seed."""
        return replace(self, routing_seed=seed)

    def check_allowed(self, allowed_E: Tensor) -> None:
        """Raise :class:`TooFewExperts` unless any token finds enough, whatever its scores are."""
        gate = self.gate
        counts = allowed_E.view(gate.groups, -1).sum(1).tolist()
        # At worst, those groups are best that have the fewest: an empty one is never chosen.
        fewest = sum(sorted(filter(None, counts))[: gate.top_k_groups])
        if fewest < gate.top_k:
            raise TooFewExperts(
                f"layer {self.layer} needs {gate.top_k} experts a token, but {fewest} may be left",
                where="lite_llm.tier_set",
                remedy="choose more tiers",
            )

    def build(self, tensors: Mapping[str, Tensor], experts: Bank) -> MoeBlock:
        """Over the tensors of :meth:`weights` and the experts."""
        return MoeBlock(self, tensors, experts)


@runtime_checkable
class _Seeded(Protocol):
    def seeded(self, seed: int) -> Ffn: ...


@runtime_checkable
class _ByTier(Protocol):
    def of_tiers(self, top_k: int) -> Ffn: ...


@runtime_checkable
class _Choosy(Protocol):
    def check_allowed(self, allowed_E: Tensor) -> None: ...


@runtime_checkable
class _WithExperts(Protocol):
    experts: LayerExperts

    def route(self, x_TD: Tensor, mask_TE: Tensor | None = None) -> Routed: ...


class MoeBlock:
    """Routed and shared experts with their weights."""

    def __init__(self, config: MoeConfig, tensors: Mapping[str, Tensor], experts: Bank) -> None:
        self._router_ED = tensors[f"{config.router}.weight"]
        self._router_bias_E = tensors.get(f"{config.router}.bias")
        self._choice_bias_E = tensors.get(config.choice_bias or "")
        if self._choice_bias_E is not None and not self._choice_bias_E.isfinite().all():
            raise Corrupt(
                f"{config.choice_bias} of layer {config.layer} holds NaN or infinity",
                where=f"layer {config.layer}",
                remedy="fetch or convert the checkpoint again",
            )
        self._shared_gate_1D = tensors.get(config.shared_gate or "")
        self._shared = None if config.shared is None else config.shared.build(tensors)
        ties = Ties.of_layer(config.layer, config.routing_seed)
        self._router = Router(config.gate, config.experts, ties, self._router_ED.device)
        self.experts = LayerExperts(config.layer, experts, config.gating)

    def __call__(self, x_TD: Tensor, mask_TE: Tensor | None = None) -> Tensor:
        """``[T, D]``."""
        y_TD = self.experts(x_TD, self.route(x_TD, mask_TE))
        return y_TD if self._shared is None else y_TD + self._of_shared(x_TD, self._shared)

    def route(self, x_TD: Tensor, mask_TE: Tensor | None = None) -> Routed:
        """Which experts each row chooses."""
        scores_TE = linear(x_TD, self._router_ED, self._router_bias_E, out_dtype=torch.float32)
        return self._router.route(scores_TE, bias_E=self._choice_bias_E, allowed_TE=mask_TE)

    def _of_shared(self, x_TD: Tensor, shared: FfnBlock) -> Tensor:
        y_TD = shared(x_TD, None)
        if self._shared_gate_1D is None:
            return y_TD
        share_T1 = sigmoid(linear(x_TD, self._shared_gate_1D, out_dtype=torch.float32))
        return y_TD * share_T1.to(y_TD.dtype)


def with_routing_seed(config: DecoderConfig, seed: int) -> DecoderConfig:
    """The same model with another order among equal scores (SPEC-003); ``seed`` has 128 bits."""
    layers = (
        replace(layer, ffn=layer.ffn.seeded(seed)) if isinstance(layer.ffn, _Seeded) else layer
        for layer in config.layers
    )
    return replace(config, layers=tuple(layers))


def with_top_k_tiers(config: DecoderConfig, top_k: int) -> DecoderConfig | None:
    """The same model where a token chooses from so many tiers; None if its routers choose none."""
    layers = tuple(
        replace(layer, ffn=layer.ffn.of_tiers(top_k)) if isinstance(layer.ffn, _ByTier) else layer
        for layer in config.layers
    )
    chooses = any(isinstance(layer.ffn, _ByTier) for layer in layers)
    return replace(config, layers=layers) if chooses else None


def check_masks(config: DecoderConfig, masks: Sequence[Tensor | None]) -> None:
    """Raise :class:`TooFewExperts` if a request with these masks could fail in the middle.

    ``masks`` are of one row, ``[1, E]`` for each layer (:meth:`TierMasks.of`).
    """
    for layer, mask_1E in zip(config.layers, masks, strict=True):
        if mask_1E is not None and isinstance(layer.ffn, _Choosy):
            layer.ffn.check_allowed(mask_1E[0])


def fetch_ahead(blocks: Iterable[FfnBlock], cache: ExpertCache) -> None:
    """Have each layer's experts fetched while the one before runs, from now on."""
    throttle = Throttle()
    with_experts = [block for block in blocks if isinstance(block, _WithExperts)]
    count = len(with_experts)
    for index, block in enumerate(with_experts):
        # Behind the last layer come the next token's first ones, which no router speaks for.
        next_one, then = (with_experts[(index + ahead) % count] for ahead in (1, 2))
        layer, is_last = next_one.experts.layer, index == count - 1
        habits = [(then.experts.layer, 2)]
        block.experts.ahead = Ahead(
            cache,
            throttle,
            layer,
            None if is_last else next_one.route,
            distance=1 if is_last else layer - block.experts.layer,
            habits=[(layer, 1), *habits] if is_last else habits,
        )


def observe(blocks: Iterable[FfnBlock], observer: Observer) -> None:
    """Tell ``observer`` of each step of each layer's experts, from now on."""
    for block in blocks:
        if isinstance(block, _WithExperts):
            block.experts.observers.append(observer)


def record_activity(blocks: Iterable[FfnBlock]) -> Activity:
    """Counts, from now on, how often each expert of a model's ``blocks`` runs."""
    layers = [block.experts for block in blocks if isinstance(block, _WithExperts)]
    activity = Activity({experts.layer: len(experts) for experts in layers})
    for experts in layers:
        experts.observers.append(activity.record)
    return activity
