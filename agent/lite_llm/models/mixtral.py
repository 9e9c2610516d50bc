"""Mixtral 8x7B and 8x22B."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.moe_fields import ignore_training, read_gate, read_moe, read_num_experts
from lite_llm.models.parsing import read_attention, read_decoder, read_head_dim
from lite_llm.models.rope_fields import read_rope


def mixtral(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``MixtralForCausalLM``."""
    fields.only("model_type", "mixtral")
    fields.ignore("router_jitter_noise")  # of training
    ignore_training(fields)
    rope = read_rope(
        fields, head_dim=read_head_dim(fields), theta=1e6, context_tokens=context_tokens
    )
    attention = read_attention(fields, rope=rope, window=fields.optional_count("sliding_window"))
    experts = read_num_experts(fields, "num_local_experts", "num_experts")
    gate = read_gate(fields, experts, normalized=True)

    def layer(number: int) -> LayerConfig:
        return LayerConfig(
            attention=attention,
            ffn=read_moe(
                fields,
                number,
                gate,
                experts=experts,
                size="intermediate_size",
                router="block_sparse_moe.gate",
            ),
        )

    return read_decoder(fields, family="mixtral", layer=layer, context_tokens=context_tokens)
