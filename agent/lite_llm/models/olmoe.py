"""OLMoE."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.moe_fields import ignore_training, read_gate, read_moe, read_num_experts
from lite_llm.models.parsing import read_attention, read_decoder, read_head_dim, read_norm
from lite_llm.models.rope_fields import read_rope


def olmoe(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``OlmoeForCausalLM``: queries and keys are normalised over all heads together."""
    fields.only("model_type", "olmoe")
    fields.only("clip_qkv")
    ignore_training(fields)
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    bias = fields.flag("attention_bias")
    attention = read_attention(
        fields,
        rope=rope,
        bias=bias,
        output_bias=bias,
        qk_norm=read_norm(fields),
        qk_norm_wide=True,
    )
    experts = read_num_experts(fields, "num_experts", "num_local_experts")
    gate = read_gate(fields, experts, normalized=fields.flag("norm_topk_prob"))

    def layer(number: int) -> LayerConfig:
        moe = read_moe(fields, number, gate, experts=experts, size="intermediate_size")
        return LayerConfig(attention=attention, ffn=moe)

    return read_decoder(fields, family="olmoe", layer=layer, context_tokens=context_tokens)
