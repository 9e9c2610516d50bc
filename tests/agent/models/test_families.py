"""Every dense family against transformers: logits, greedy tokens, and bits in any company."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from lite_llm.kernels import set_threads

Run = Callable[..., list[torch.Tensor]]
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "dtype": "float32",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}

CASES: dict[str, Any] = {
    "llama2": LlamaConfig(**{**SIZES, "num_key_value_heads": 4}),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, head_dim=16, hidden_act="gelu"
    ),
    "llama-linear": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 4.0}),
    "llama-dynamic": LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 4.0}),
    "mistral": MistralConfig(**SIZES, sliding_window=17),
    "mistral-nemo": MistralConfig(**SIZES, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2.5-windows": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=11, max_window_layers=1
    ),
    "qwen2.5-yarn": Qwen2Config(**SIZES, rope_parameters=YARN_ROPE),
    "qwen3": Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "qwen3-biases": Qwen3Config(
        **SIZES,
        head_dim=16,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gemma2": Gemma2Config(
        **SIZES,
        head_dim=16,
        query_pre_attn_scalar=20,
        sliding_window=13,
        attn_logit_softcapping=5.0,
    ),
    "gemma2-uncapped": Gemma2Config(
        **SIZES,
        head_dim=12,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
        attention_bias=True,
    ),
    "gemma3": Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 7},
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=13,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma3-capped": Gemma3TextConfig(
        **SIZES,
        head_dim=16,
        final_logit_softcapping=4.0,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "phi3": Phi3Config(**SIZES, sliding_window=15),
    "phi4-mini": Phi3Config(
        **{**SIZES, "hidden_size": 64},
        tie_word_embeddings=True,
        original_max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0 + 0.1 * i for i in range(6)],
            "long_factor": [1.0 + 2.0 * i for i in range(6)],
            "partial_rotary_factor": 0.75,
        },
    ),
}
SHORT_CONTEXT = {"phi4-mini": 256}  # within the original context, so with the short factors


@pytest.mark.parametrize("name", CASES)
def test_a_family_is_transformers(oracle: Callable[..., Any], name: str) -> None:
    oracle(CASES[name], context_tokens=SHORT_CONTEXT.get(name)).check()


def test_longrope_in_a_long_context_is_a_long_prompt_of_transformers(
    oracle: Callable[..., Any],
) -> None:
    both = oracle(CASES["phi4-mini"])
    assert both.decoder.config.context_tokens == 512
    both.check(prompt_tokens=258)


@pytest.mark.parametrize("name", ["llama2", "gemma2", "qwen3", "phi3"])
def test_half_precision_is_near_and_invariant(
    oracle: Callable[..., Any], run: Run, name: str
) -> None:
    config = CASES[name].__class__(**{**CASES[name].to_dict(), "dtype": "bfloat16"})
    both = oracle(config)
    assert both.decoder.config.dtype is torch.bfloat16
    tokens = torch.randint(128, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    ours_TV = both.decoder.logits(run(both.decoder, [tokens])[0])
    theirs_TV = both.expected(tokens)
    both.reference.float()
    exact_TV = both.expected(tokens)
    # Both round, each in its own places: ours may not be much worse.
    assert (ours_TV - exact_TV).abs().mean() < 1.5 * (theirs_TV - exact_TV).abs().mean()
    both.check_invariance(tokens)


def test_the_number_of_threads_changes_no_bit(oracle: Callable[..., Any], run: Run) -> None:
    both = oracle(CASES["gemma2"])
    tokens = [list(range(90)), list(range(30, 70))]
    one = run(both.decoder, tokens)
    try:
        torch.set_num_threads(2)
        set_threads(2)
        two = run(both.decoder, tokens)
    finally:
        torch.set_num_threads(1)
        set_threads(1)
    assert all(map(torch.equal, one, two))
