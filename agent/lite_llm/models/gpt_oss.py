"""GPT-OSS 20B and 120B."""

from __future__ import annotations

import torch

from lite_llm.experts import Scoring
from lite_llm.models.architecture import DecoderConfig, LayerConfig
from lite_llm.models.fields import Fields
from lite_llm.models.moe import ClampedSwiGlu
from lite_llm.models.moe_fields import ignore_training, read_gate, read_moe, read_num_experts
from lite_llm.models.parsing import read_attention, read_decoder, read_head_dim, read_windows
from lite_llm.models.rope_fields import read_rope


def gpt_oss(fields: Fields, context_tokens: int | None = None) -> DecoderConfig:
    """``GptOssForCausalLM``: sinks, biases everywhere, every other layer slides."""
    fields.only("model_type", "gpt_oss")
    fields.only("hidden_act", "silu")
    _check_quantization(fields)
    ignore_training(fields)
    fields.only("experts_per_token", fields.raw("num_experts_per_tok"))
    fields.ignore("initial_context_length")  # what rope says in its own words
    rope = read_rope(
        fields, head_dim=read_head_dim(fields), theta=150000.0, context_tokens=context_tokens
    )
    bias = fields.flag("attention_bias", default=True)
    windows = read_windows(
        fields, slides=lambda layer: layer % 2 == 0, window=fields.optional_count("sliding_window")
    )
    gating = ClampedSwiGlu(
        alpha=fields.number("swiglu_alpha", 1.702), limit=fields.number("swiglu_limit", 7.0)
    )
    experts = read_num_experts(fields, "num_local_experts", "num_experts")
    gate = read_gate(fields, experts, scoring=Scoring.CHOSEN_SOFTMAX)

    def layer(number: int) -> LayerConfig:
        attention = read_attention(
            fields, rope=rope, window=windows[number], bias=bias, output_bias=bias, sinks=True
        )
        moe = read_moe(
            fields,
            number,
            gate,
            experts=experts,
            size="intermediate_size",
            router="mlp.router",
            gating=gating,
            router_bias=True,
            expert_bias=True,
        )
        return LayerConfig(attention=attention, ffn=moe)

    return read_decoder(
        fields,
        family="gpt_oss",
        layer=layer,
        dtype=torch.bfloat16,  # the released configuration names none
        context_tokens=context_tokens,
    )


def _check_quantization(fields: Fields) -> None:
    """MXFP4 is read as it is stored; the modules that were left out name themselves."""
    quantization = fields.nested("quantization_config")
    if quantization is not None:
        quantization.only("quant_method", "mxfp4")
        quantization.ignore("modules_to_not_convert", "dequantize")
        quantization.finish()
