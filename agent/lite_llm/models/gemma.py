"""Gemma 2 and 3, text: norms on both sides of each block, and windows that alternate.

Gemma 2 caps scores and logits; Gemma 3 normalises queries and keys instead, and turns those of
sliding layers by frequencies of their own.
"""

from __future__ import annotations

import torch

from lite_llm.kernels import Activation
from lite_llm.models.architecture import DecoderConfig, LayerConfig, Norms
from lite_llm.models.ffn import FfnConfig
from lite_llm.models.fields import Fields
from lite_llm.models.parsing import (
    FULL,
    SLIDING,
    read_activation,
    read_attention,
    read_decoder,
    read_dtype,
    read_ffn,
    read_norm,
    read_windows,
)
from lite_llm.models.rope import RopeConfig
from lite_llm.models.rope_fields import read_rope, rope_of

_ATTENTION_NORMS = Norms("input_layernorm", "post_attention_layernorm")
_FFN_NORMS = Norms("pre_feedforward_layernorm", "post_feedforward_layernorm")


def gemma2(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Gemma2ForCausalLM``."""
    fields.only("model_type", "gemma2")
    rope = read_rope(fields, head_dim=fields.count("head_dim"), context_tokens=context_tokens)
    window = fields.count("sliding_window")
    fields.only("sliding_window_size", window)  # an older name, which some files have beside it
    windows = read_windows(fields, slides=lambda layer: layer % 2 == 0, window=window)
    return _gemma(
        fields,
        "gemma2",
        [(window, rope) for window in windows],
        context_tokens,
        softcap=_cap(fields, "attn_logit_softcapping", 50.0),
        logit_softcap=_cap(fields, "final_logit_softcapping", 30.0),
    )


def gemma3(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``Gemma3ForCausalLM``."""
    fields.only("model_type", "gemma3_text")
    fields.only("attn_logit_softcapping")  # transformers reads it and does nothing
    pattern = fields.count("sliding_window_pattern", 6)
    windows = read_windows(
        fields,
        slides=lambda layer: (layer + 1) % pattern != 0,
        window=fields.count("sliding_window"),
    )
    full, sliding = _ropes(fields, context_tokens)
    return _gemma(
        fields,
        "gemma3",
        [(window, full if window is None else sliding) for window in windows],
        context_tokens,
        normed=True,
        logit_softcap=_cap(fields, "final_logit_softcapping", None),
    )


def _gemma(
    fields: Fields,
    family: str,
    layers: list[tuple[int | None, RopeConfig]],
    context_tokens: int | None,
    *,
    softcap: float | None = None,
    normed: bool = False,
    logit_softcap: float | None,
) -> DecoderConfig:
    fields.only("use_bidirectional_attention", False)
    fields.ignore("cache_implementation", "hidden_act")  # hidden_activation is what counts
    norm, ffn = read_norm(fields, plus_one=True), _ffn(fields)
    bias, scale = fields.flag("attention_bias"), fields.number("query_pre_attn_scalar") ** -0.5

    def layer(number: int) -> LayerConfig:
        window, rope = layers[number]
        attention = read_attention(
            fields,
            rope=rope,
            scale=scale,
            window=window,
            softcap=softcap,
            bias=bias,
            output_bias=bias,
            qk_norm=norm if normed else None,
        )
        return LayerConfig(
            attention=attention, ffn=ffn, attention_norms=_ATTENTION_NORMS, ffn_norms=_FFN_NORMS
        )

    # The scale is rounded as the embeddings are: sqrt(3072) is 55.5 in bfloat16.
    scale_of_embeddings = torch.tensor(fields.count("hidden_size") ** 0.5).to(read_dtype(fields))
    return read_decoder(
        fields,
        family=family,
        layer=layer,
        norm=norm,
        tied=True,
        context_tokens=context_tokens,
        embedding_scale=float(scale_of_embeddings),
        logit_softcap=logit_softcap,
    )


def _ffn(fields: Fields) -> FfnConfig:
    activation = read_activation(fields, "hidden_activation", Activation.GELU_TANH)
    return read_ffn(fields, activation=activation)


def _ropes(fields: Fields, context_tokens: int | None) -> tuple[RopeConfig, RopeConfig]:
    """Of full and of sliding layers."""
    head_dim, by_type = fields.count("head_dim"), fields.nested("rope_parameters") or Fields({})
    older = {
        FULL: fields.number("rope_theta", 1e6),
        SLIDING: fields.number("rope_local_base_freq", 1e4),
    }
    scaling = fields.nested("rope_scaling")

    def rope(kind: str) -> RopeConfig:
        parameters = by_type.nested(kind)
        if kind == FULL:
            parameters = parameters or scaling
        parameters = parameters or Fields({})
        parameters.only("partial_rotary_factor", 1.0)
        return rope_of(
            parameters,
            fields,
            Fields({"rope_theta": older[kind]}),
            head_dim=head_dim,
            context_tokens=context_tokens,
        )

    ropes = rope(FULL), rope(SLIDING)
    by_type.finish()
    return ropes


def _cap(fields: Fields, name: str, default: float | None) -> float | None:
    """Absence means the family's default, null means none."""
    return fields.optional_number(name) if fields.mentions(name) else default
