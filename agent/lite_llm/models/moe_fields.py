"""The fields that families with experts have in common, as parts of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lite_llm.experts import Gate, Gating, GroupScore, Scoring
from lite_llm.models.ffn import FfnConfig
from lite_llm.models.fields import Fields
from lite_llm.models.moe import GatedBy, MoeConfig
from lite_llm.models.parsing import read_activation, read_ffn

MAX_EXPERTS: Final = 1 << 16
"""Of one layer; real models have a hundredth of it."""

ROUTER, CHOICE_BIAS = "mlp.gate", "mlp.gate.e_score_correction_bias"


def ignore_training(fields: Fields) -> None:
    """What a router was trained with, and what transformers returns beside an answer."""
    fields.ignore("router_aux_loss_coef", "output_router_logits", "aux_loss_alpha", "seq_aux")
    fields.ignore("ep_size")


def read_num_experts(fields: Fields, *names: str) -> int:
    """From the first of ``names`` that is there."""
    name = next((name for name in names if name in fields), names[0])
    experts = fields.count(name)
    fields.ignore(*names)
    if experts > MAX_EXPERTS:
        fields.wrong(name, f"at most {MAX_EXPERTS} are possible")
    return experts


def read_gate(
    fields: Fields,
    experts: int,
    *,
    scoring: Scoring = Scoring.SOFTMAX,
    normalized: bool = False,
    epsilon: float = 0.0,
    scale: float = 1.0,
    groups: int = 1,
    top_k_groups: int = 1,
    group_score: GroupScore = GroupScore.BEST,
) -> Gate:
    """``num_experts_per_tok`` of ``experts``, in a family's way."""
    if experts % groups:
        fields.wrong("n_group", f"it must divide the {experts} experts")
    if top_k_groups > groups:
        fields.wrong("topk_group", f"there are {groups} groups")
    top_k = fields.count("num_experts_per_tok")
    if top_k > experts // groups * top_k_groups:
        fields.wrong("num_experts_per_tok", "there are fewer experts in the groups of a token")
    return Gate(
        top_k=top_k,
        scoring=scoring,
        normalized=normalized,
        epsilon=epsilon,
        scale=scale,
        groups=groups,
        top_k_groups=top_k_groups,
        group_score=group_score,
    )


def read_moe(
    fields: Fields,
    layer: int,
    gate: Gate,
    *,
    experts: int,
    size: str,
    router: str = ROUTER,
    gating: Gating | None = None,
    router_bias: bool = False,
    expert_bias: bool = False,
    choice_bias: str | None = None,
    shared: FfnConfig | None = None,
    shared_gate: str | None = None,
) -> MoeConfig:
    """One layer's experts, whose inner size is the field ``size``."""
    return MoeConfig(
        layer=layer,
        hidden_size=fields.count("hidden_size"),
        inner_size=fields.count(size),
        experts=experts,
        gate=gate,
        gating=gating or GatedBy(read_activation(fields)),
        router=router,
        router_bias=router_bias,
        expert_bias=expert_bias,
        choice_bias=choice_bias,
        shared=shared,
        shared_gate=shared_gate,
    )


def read_sparse_layers(fields: Fields) -> Callable[[int], bool]:
    """Which layers have experts: Qwen's ``decoder_sparse_step`` and ``mlp_only_layers``."""
    step = fields.count("decoder_sparse_step", 1)
    dense = fields.items("mlp_only_layers") or []
    if any(type(layer) is not int for layer in dense):
        fields.wrong("mlp_only_layers", "it must list numbers of layers")
    return lambda layer: layer not in dense and (layer + 1) % step == 0


def read_shared(fields: Fields) -> FfnConfig | None:
    """DeepSeek's shared experts, ``n_shared_experts`` of the routed ones' size as one block."""
    count = fields.count("n_shared_experts", 0, minimum=0)
    if not count:
        return None
    return FfnConfig(
        hidden_size=fields.count("hidden_size"),
        inner_size=count * fields.count("moe_intermediate_size"),
        activation=read_activation(fields),
        name="mlp.shared_experts",
    )


def read_dense_first(
    fields: Fields, sparse: Callable[[int], MoeConfig]
) -> Callable[[int], MoeConfig | FfnConfig]:
    """``first_k_dense_replace`` layers without experts, then ``sparse`` ones."""
    first = fields.count("first_k_dense_replace", 0, minimum=0)
    fields.only("moe_layer_freq", 1)
    fields.ignore("intermediate_size")  # of dense layers, where there are any
    dense = read_ffn(fields) if first else None
    return lambda layer: dense if dense is not None and layer < first else sparse(layer)
