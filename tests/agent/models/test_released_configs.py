"""The configurations of models that people run are understood, with every field that they have."""

from typing import Any

import pytest
import torch

from lite_llm.models import parse_config
from lite_llm.models.attention import AttentionConfig
from lite_llm.models.rope import Linear, Llama3, LongRope

BOOKKEEPING: dict[str, Any] = {
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "transformers_version": "4.46.0",
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
}
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
)


def config(architecture: str, model_type: str, sizes: str, **own: Any) -> dict[str, Any]:
    counts = dict(zip(SIZES, map(int, sizes.split()), strict=True))
    head = {"architectures": [architecture], "model_type": model_type}
    return {**head, **BOOKKEEPING, **counts, **own}


LLAMA_ROPE = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
LLAMA_ROPE |= {"original_max_position_embeddings": 8192}
PHI_ROPE = {"long_factor": [4.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"}
GEMMA: dict[str, Any] = {
    "attention_bias": False,
    "cache_implementation": "hybrid",
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
}
RELEASED = {
    "Llama-2-7B": config(
        "LlamaForCausalLM", "llama", "32000 4096 11008 32 32 32 4096",
        _name_or_path="meta-llama/Llama-2-7b-hf", eos_token_id=2, hidden_act="silu",
        pretraining_tp=1, rope_scaling=None, tie_word_embeddings=False,
    ),
    "Llama-3.2-1B": config(
        "LlamaForCausalLM", "llama", "128256 2048 8192 16 32 8 131072",
        attention_bias=False, eos_token_id=[128001, 128008, 128009], head_dim=64,
        hidden_act="silu", mlp_bias=False, pretraining_tp=1, rope_theta=500000.0,
        rope_scaling={"rope_type": "llama3", **LLAMA_ROPE}, tie_word_embeddings=True,
    ),
    "SmolLM2-135M": config(
        "LlamaForCausalLM", "llama", "49152 576 1536 30 9 3 8192",
        attention_bias=False, eos_token_id=0, hidden_act="silu", is_llama_config=True,
        mlp_bias=False, pretraining_tp=1, rope_interleaved=False, rope_scaling=None,
        rope_theta=100000, tie_word_embeddings=True, **{"transformers.js_config": {"dtype": "q4"}},
    ),
    "Mistral-7B-v0.1": config(
        "MistralForCausalLM", "mistral", "32000 4096 14336 32 32 8 32768",
        eos_token_id=2, hidden_act="silu", rope_theta=10000.0, sliding_window=4096,
        tie_word_embeddings=False,
    ),
    "Mistral-Nemo": config(
        "MistralForCausalLM", "mistral", "131072 5120 14336 40 32 8 131072",
        eos_token_id=2, head_dim=128, hidden_act="silu", rope_theta=1000000.0,
        sliding_window=None, tie_word_embeddings=False,
    ),
    "Qwen2.5-7B": config(
        "Qwen2ForCausalLM", "qwen2", "152064 3584 18944 28 28 4 32768",
        eos_token_id=151645, hidden_act="silu", max_window_layers=28, rope_theta=1000000.0,
        sliding_window=131072, tie_word_embeddings=False, use_mrope=False,
        use_sliding_window=False,
    ),
    "Qwen3-8B": config(
        "Qwen3ForCausalLM", "qwen3", "151936 4096 12288 36 32 8 40960",
        attention_bias=False, eos_token_id=151645, head_dim=128, hidden_act="silu",
        max_window_layers=36, rope_scaling=None, rope_theta=1000000, sliding_window=None,
        tie_word_embeddings=False, use_sliding_window=False,
    ),
    "Gemma-2-9B": config(
        "Gemma2ForCausalLM", "gemma2", "256000 3584 14336 42 16 8 8192", **GEMMA,
        attn_logit_softcapping=50.0, eos_token_id=1, final_logit_softcapping=30.0,
        hidden_act="gelu_pytorch_tanh", rope_theta=10000.0, sliding_window=4096,
        sliding_window_size=4096,
    ),
    "Gemma-3-1B": config(
        "Gemma3ForCausalLM", "gemma3_text", "262144 1152 6912 26 4 1 32768", **GEMMA,
        attn_logit_softcapping=None, eos_token_id=[1, 106], final_logit_softcapping=None,
        rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000, sliding_window=512,
        sliding_window_pattern=6,
    ),
    "Phi-3.5-mini": config(
        "Phi3ForCausalLM", "phi3", "32064 3072 8192 32 32 32 131072",
        attention_bias=False, auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        embd_pdrop=0.0, eos_token_id=32000, hidden_act="silu",
        original_max_position_embeddings=4096, pad_token_id=32000, resid_pdrop=0.0,
        rope_scaling=PHI_ROPE, rope_theta=10000.0, sliding_window=262144,
        tie_word_embeddings=False,
    ),
    "Phi-4-mini": config(
        "Phi3ForCausalLM", "phi3", "200064 3072 8192 32 24 8 131072",
        attention_bias=False, embd_pdrop=0.0, eos_token_id=199999, full_attn_mod=1,
        hidden_act="silu", interpolate_factor=1, lm_head_bias=False, mlp_bias=False,
        original_max_position_embeddings=4096, partial_rotary_factor=0.75, resid_pdrop=0.0,
        rope_scaling=PHI_ROPE, rope_theta=10000.0, sliding_window=262144,
        tie_word_embeddings=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_are_understood(name: str) -> None:
    fields = RELEASED[name]
    parsed = parse_config(fields)
    assert parsed.dtype is torch.bfloat16
    assert parsed.context_tokens == fields["max_position_embeddings"]
    assert len(parsed.layers) == fields["num_hidden_layers"]


def attention(name: str, layer: int = 0) -> AttentionConfig:
    found = parse_config(RELEASED[name]).layers[layer].attention
    assert isinstance(found, AttentionConfig)
    return found


def test_they_are_what_their_papers_say() -> None:
    assert [attention("Gemma-3-1B", layer).window for layer in range(6)] == [512] * 5 + [None]
    assert attention("Gemma-2-9B").softcap == 50.0
    assert attention("Gemma-2-9B").scale == 1 / 16
    assert attention("Mistral-7B-v0.1").window == 4096
    assert attention("Mistral-Nemo").window is None
    assert attention("Qwen2.5-7B").bias
    assert attention("Qwen2.5-7B").window is None
    assert attention("Qwen3-8B").qk_norm is not None
    ropes = {name: attention(name).rope for name in RELEASED}
    assert all(rope is not None for rope in ropes.values())
    scalings = {name: rope.scaling for name, rope in ropes.items() if rope is not None}
    assert isinstance(scalings["Llama-3.2-1B"], Llama3)
    assert isinstance(scalings["Phi-4-mini"], LongRope)
    assert not any(isinstance(scaling, Linear) for scaling in scalings.values())
    partial = ropes["Phi-4-mini"]
    assert partial is not None
    assert (partial.dim, attention("Phi-4-mini").head_dim) == (96, 128)
    assert partial.attention_factor == pytest.approx(1.1902380714238083)
