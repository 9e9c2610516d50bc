"""GLM-4.5."""

from __future__ import annotations

from lite_llm.experts import GroupScore, Scoring
from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
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
from lite_llm.models.parsing import read_attention, read_decoder, read_head_dim, read_norm
from lite_llm.models.rope_fields import read_rope


def glm4_moe(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Glm4MoeForCausalLM``: grouped-query attention with DeepSeek-V3's gate."""
    fields.only("model_type", "glm4_moe")
    ignore_training(fields)
    rope = read_rope(
        fields, head_dim=read_head_dim(fields), partial=0.5, context_tokens=context_tokens
    )
    attention = read_attention(
        fields,
        rope=rope,
        bias=fields.flag("attention_bias"),
        qk_norm=read_norm(fields) if fields.flag("use_qk_norm") else None,
    )
    experts = read_num_experts(fields, "n_routed_experts", "num_local_experts")
    gate = read_gate(
        fields,
        experts,
        scoring=Scoring.SIGMOID,
        normalized=fields.flag("norm_topk_prob", default=True),
        epsilon=1e-20,
        scale=fields.number("routed_scaling_factor", 1.0),
        groups=fields.count("n_group", 1),
        top_k_groups=fields.count("topk_group", 1),
        group_score=GroupScore.BEST_TWO,
    )
    shared = read_shared(fields)

    def sparse(number: int) -> MoeConfig:
        return read_moe(
            fields,
            number,
            gate,
            experts=experts,
            size="moe_intermediate_size",
            choice_bias=CHOICE_BIAS,
            shared=shared,
        )

    ffn = read_dense_first(fields, sparse)
    return read_decoder(
        fields,
        family="glm4_moe",
        layer=lambda number: LayerConfig(attention=attention, ffn=ffn(number)),
        context_tokens=context_tokens,
        extra_layers=fields.count("num_nextn_predict_layers", 0, minimum=0),
    )
