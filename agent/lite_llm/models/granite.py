"""Granite 3 with experts."""

from __future__ import annotations

from lite_llm.experts import Scoring
from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.moe_fields import ignore_training, read_gate, read_moe, read_num_experts
from lite_llm.models.parsing import read_attention, read_decoder, read_head_dim
from lite_llm.models.rope_fields import read_rope


def granite_moe(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``GraniteMoeForCausalLM``: a Mixtral whose streams have multipliers."""
    fields.only("model_type", "granitemoe")
    ignore_training(fields)
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    bias = fields.flag("attention_bias")
    attention = read_attention(
        fields,
        rope=rope,
        scale=fields.number("attention_multiplier", 1.0),
        bias=bias,
        output_bias=bias,
    )
    experts = read_num_experts(fields, "num_local_experts", "num_experts")
    gate = read_gate(fields, experts, scoring=Scoring.CHOSEN_SOFTMAX)

    def layer(number: int) -> LayerConfig:
        return LayerConfig(
            attention=attention,
            ffn=read_moe(
                fields,
                number,
                gate,
                experts=experts,
                size="intermediate_size",
                router="block_sparse_moe.router.layer",
            ),
        )

    return read_decoder(
        fields,
        family="granitemoe",
        layer=layer,
        context_tokens=context_tokens,
        embedding_scale=fields.number("embedding_multiplier", 1.0),
        residual_scale=fields.number("residual_multiplier", 1.0),
        logit_divisor=fields.number("logits_scaling", 1.0),
    )
