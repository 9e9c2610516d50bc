"""DeepSeek-V2 and V3 (with R1): latent attention, and experts chosen from the best groups."""

from __future__ import annotations

import math

from lite_llm.experts import Gate, GroupScore, Scoring
from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.latent_attention import LatentAttentionConfig
from lite_llm.models.moe import MoeConfig
from lite_llm.models.moe_fields import (
    CHOICE_BIAS,
    ignore_training,
    read_dense_first,
    read_gate,
    read_moe,
    read_num_experts,
    read_shared,
)
from lite_llm.models.parsing import read_decoder
from lite_llm.models.rope_fields import read_rope


def deepseek_v2(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``DeepseekV2ForCausalLM``: a softmax over all experts; groups count by their best."""
    fields.only("model_type", "deepseek_v2")
    fields.only("scoring_func", "softmax")
    fields.only("norm_topk_prob", False)  # transformers and the original differ on true
    fields.only("mlp_bias", False)
    fields.only("topk_method", "greedy", "group_limited_greedy")
    grouped = fields.text("topk_method", "greedy") == "group_limited_greedy"
    experts = read_num_experts(fields, "n_routed_experts", "num_experts")
    groups, top_k_groups = fields.optional_count("n_group"), fields.optional_count("topk_group")
    gate = read_gate(
        fields,
        experts,
        scale=fields.number("routed_scaling_factor", 1.0),
        groups=(groups or 1) if grouped else 1,
        top_k_groups=(top_k_groups or 1) if grouped else 1,
    )
    return _deepseek(fields, "deepseek_v2", gate, experts, None, True, context_tokens)


def deepseek_v3(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``DeepseekV3ForCausalLM``: sigmoids, with a bias for the choice; groups by their two best."""
    fields.only("model_type", "deepseek_v3")
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    experts = read_num_experts(fields, "n_routed_experts", "num_local_experts")
    gate = read_gate(
        fields,
        experts,
        scoring=Scoring.SIGMOID,
        normalized=fields.flag("norm_topk_prob", default=True),
        epsilon=1e-20,
        scale=fields.number("routed_scaling_factor", 2.5),
        groups=fields.count("n_group", 8),
        top_k_groups=fields.count("topk_group", 4),
        group_score=GroupScore.BEST_TWO,
    )
    interleaved = fields.flag("rope_interleave", default=True)
    return _deepseek(fields, "deepseek_v3", gate, experts, CHOICE_BIAS, interleaved, context_tokens)


def _deepseek(
    fields: Fields,
    family: str,
    gate: Gate,
    experts: int,
    choice_bias: str | None,
    interleaved: bool,
    context_tokens: int | None,
) -> DecoderConfig:
    ignore_training(fields)
    attention = _attention(fields, interleaved, context_tokens)
    shared = read_shared(fields)

    def sparse(number: int) -> MoeConfig:
        return read_moe(
            fields,
            number,
            gate,
            experts=experts,
            size="moe_intermediate_size",
            choice_bias=choice_bias,
            shared=shared,
        )

    ffn = read_dense_first(fields, sparse)
    return read_decoder(
        fields,
        family=family,
        layer=lambda number: LayerConfig(attention=attention, ffn=ffn(number)),
        context_tokens=context_tokens,
        extra_layers=fields.count("num_nextn_predict_layers", 0, minimum=0),
    )


def _attention(
    fields: Fields, interleaved: bool, context_tokens: int | None
) -> LatentAttentionConfig:
    heads, turned = fields.count("num_attention_heads"), fields.count("qk_rope_head_dim")
    plain = fields.count("qk_nope_head_dim")
    fields.only("num_key_value_heads", heads)
    fields.only("head_dim", turned)
    fields.only("qk_head_dim", plain + turned)
    if turned % 2:
        fields.wrong("qk_rope_head_dim", "rotary embedding needs an even one")
    rope = read_rope(fields, head_dim=turned, context_tokens=context_tokens)
    return LatentAttentionConfig(
        hidden_size=fields.count("hidden_size"),
        heads=heads,
        query_rank=fields.optional_count("q_lora_rank"),
        rank=fields.count("kv_lora_rank"),
        plain_dim=plain,
        rope=rope,
        value_dim=fields.count("v_head_dim"),
        scale=(plain + turned) ** -0.5 * _yarn_scale(fields) ** 2,
        interleaved=interleaved,
        bias=fields.flag("attention_bias"),
    )


def _yarn_scale(fields: Fields) -> float:
    """What longer contexts multiply queries and keys with."""
    rope = fields.nested("rope_parameters") or fields.nested("rope_scaling")
    weight = None if rope is None else rope.optional_number("mscale_all_dim")
    if rope is None or weight is None or (factor := rope.number("factor", 1.0)) <= 1:
        return 1.0
    return 0.1 * weight * math.log(factor) + 1.0
