"""Phi-3 and Phi-4: one stored tensor for queries, keys and values, one for gate and up."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.parsing import read_attention, read_decoder, read_ffn, read_head_dim
from lite_llm.models.rope_fields import read_rope

_STORED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def phi3(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Phi3ForCausalLM``."""
    fields.only("model_type", "phi3")
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    fields.only("lm_head_bias", False)
    fields.only("full_attn_mod", 1)
    fields.only("interpolate_factor", 1)
    rope = read_rope(
        fields, head_dim=read_head_dim(fields), partial=1.0, context_tokens=context_tokens
    )
    layer = LayerConfig(
        attention=read_attention(fields, rope=rope, window=fields.optional_count("sliding_window")),
        ffn=read_ffn(fields),
    )
    return read_decoder(
        fields,
        family="phi3",
        layer=lambda _: layer,
        context_tokens=context_tokens,
        stored=_STORED,
    )
