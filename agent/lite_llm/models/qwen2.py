"""Qwen 2 and 2.5: biases on queries, keys and values, and windows in the upper layers."""

from __future__ import annotations

from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.parsing import (
    read_attention,
    read_decoder,
    read_ffn,
    read_head_dim,
    read_windows,
)
from lite_llm.models.rope_fields import read_rope


def qwen2(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Qwen2ForCausalLM``."""
    fields.only("model_type", "qwen2")
    fields.only("use_mrope", False)
    rope = read_rope(fields, head_dim=read_head_dim(fields), context_tokens=context_tokens)
    windows, ffn = read_qwen_windows(fields), read_ffn(fields)
    layers = [
        LayerConfig(attention=read_attention(fields, rope=rope, window=window, bias=True), ffn=ffn)
        for window in windows
    ]
    return read_decoder(
        fields, family="qwen2", layer=layers.__getitem__, context_tokens=context_tokens
    )


def read_qwen_windows(fields: Fields) -> list[int | None]:
    """Each layer's: without ``layer_types`` those from ``max_window_layers`` on slide."""
    uses, window = fields.flag("use_sliding_window"), fields.optional_count("sliding_window")
    first = fields.count("max_window_layers", 28, minimum=0)
    return read_windows(
        fields, slides=lambda layer: layer >= first, window=window if uses else None
    )
