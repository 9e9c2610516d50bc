"""Qwen2-MoE (with Qwen1.5-MoE) and Qwen3-MoE."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.attention import AttentionConfig
from lite_llm.models.ffn import FfnConfig
from lite_llm.models.fields import Fields
from lite_llm.models.moe_fields import (
    ignore_training,
    read_gate,
    read_moe,
    read_num_experts,
    read_sparse_layers,
)
from lite_llm.models.parsing import (
    read_attention,
    read_decoder,
    read_ffn,
    read_head_dim,
    read_norm,
    read_windows,
)
from lite_llm.models.rope_fields import read_rope


def qwen2_moe(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Qwen2MoeForCausalLM``: biases on queries, keys and values, and a shared expert."""
    fields.only("model_type", "qwen2_moe")
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    attention = read_attention(fields, rope=rope, bias=fields.flag("qkv_bias", default=True))
    shared = read_ffn(fields, size="shared_expert_intermediate_size", name="mlp.shared_expert")
    return _qwen(fields, "qwen2_moe", attention, shared, context_tokens)


def qwen3_moe(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Qwen3MoeForCausalLM``: queries and keys are normalised, nothing is shared."""
    fields.only("model_type", "qwen3_moe")
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    bias = fields.flag("attention_bias")
    attention = read_attention(
        fields, rope=rope, bias=bias, output_bias=bias, qk_norm=read_norm(fields)
    )
    return _qwen(fields, "qwen3_moe", attention, None, context_tokens)


def _qwen(
    fields: Fields,
    family: str,
    attention: AttentionConfig,
    shared: FfnConfig | None,
    context_tokens: int | None,
) -> DecoderConfig:
    ignore_training(fields)
    fields.only("use_sliding_window", False)
    fields.ignore("sliding_window", "max_window_layers")  # which only that would switch on
    read_windows(fields, slides=lambda _: False, window=None)
    is_sparse = read_sparse_layers(fields)
    dense = read_ffn(fields)
    experts = read_num_experts(fields, "num_experts", "num_local_experts")
    gate = read_gate(fields, experts, normalized=fields.flag("norm_topk_prob"))

    def layer(number: int) -> LayerConfig:
        if not is_sparse(number):
            return LayerConfig(attention=attention, ffn=dense)
        moe = read_moe(
            fields,
            number,
            gate,
            experts=experts,
            size="moe_intermediate_size",
            shared=shared,
            shared_gate=None if shared is None else "mlp.shared_expert_gate.weight",
        )
        return LayerConfig(attention=attention, ffn=moe)

    return read_decoder(fields, family=family, layer=layer, context_tokens=context_tokens)
