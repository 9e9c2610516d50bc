"""Mistral: Llama with a sliding window in every layer."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.parsing import read_attention, read_decoder, read_ffn, read_head_dim
from lite_llm.models.rope_fields import read_rope

_DEFAULT_WINDOW = 4096  # where the field is absent; null means none


def mistral(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``MistralForCausalLM``."""
    fields.only("model_type", "mistral")
    window = fields.optional_count("sliding_window")
    if not fields.mentions("sliding_window"):
        window = _DEFAULT_WINDOW
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    layer = LayerConfig(
        attention=read_attention(fields, rope=rope, window=window),
        ffn=read_ffn(fields),
    )
    return read_decoder(
        fields, family="mistral", layer=lambda _: layer, context_tokens=context_tokens
    )
