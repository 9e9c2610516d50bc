"""Llama 2 and 3."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.parsing import read_attention, read_decoder, read_ffn, read_head_dim
from lite_llm.models.rope_fields import read_rope


def llama(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``LlamaForCausalLM``."""
    fields.only("model_type", "llama")
    fields.only("rope_interleaved", False)
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    bias = fields.flag("attention_bias")
    layer = LayerConfig(
        attention=read_attention(fields, rope=rope, bias=bias, output_bias=bias),
        ffn=read_ffn(fields, bias=fields.flag("mlp_bias")),
    )
    return read_decoder(
        fields, family="llama", layer=lambda _: layer, context_tokens=context_tokens
    )
