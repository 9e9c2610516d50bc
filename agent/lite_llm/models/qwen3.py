"""Qwen 3: each head's queries and keys are normalised."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.parsing import read_attention, read_decoder, read_ffn, read_norm
from lite_llm.models.qwen2 import read_qwen_windows
from lite_llm.models.rope_fields import read_rope


def qwen3(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Qwen3ForCausalLM``."""
    fields.only("model_type", "qwen3")
    rope = read_rope(fields, head_dim=fields.count("head_dim"), context_tokens=context_tokens)
    bias, norm, ffn = fields.flag("attention_bias"), read_norm(fields), read_ffn(fields)
    layers = [
        LayerConfig(
            attention=read_attention(
                fields, rope=rope, window=window, bias=bias, output_bias=bias, qk_norm=norm
            ),
            ffn=ffn,
        )
        for window in read_qwen_windows(fields)
    ]
    return read_decoder(
        fields, family="qwen3", layer=layers.__getitem__, context_tokens=context_tokens
    )
