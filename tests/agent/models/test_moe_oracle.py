"""Every family with experts beside transformers: logits, greedy tokens, bits in any company."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from lite_llm.checkpoint import open_checkpoint
from lite_llm.models import Decoder, load_decoder, parse_config
from lite_llm.models.moe import record_activity

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "dtype": "float32",
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.9}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
}
GROUPED = {"n_group": 4, "topk_group": 2}
QWEN2 = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("mixtral", {"num_local_experts": 6}),
    "Mixtral with a window": ("mixtral", {"num_local_experts": 6, "sliding_window": 7}),
    "Qwen2-MoE": ("qwen2_moe", {**QWEN2, "shared_expert_intermediate_size": 28}),
    "Qwen2-MoE with dense layers": (
        "qwen2_moe",
        {**QWEN2, "norm_topk_prob": True, "mlp_only_layers": [1], "decoder_sparse_step": 1},
    ),
    "Qwen3-MoE": ("qwen3_moe", {**QWEN2, "norm_topk_prob": True, "head_dim": 16}),
    "Qwen3-MoE, every other layer": ("qwen3_moe", {**QWEN2, "decoder_sparse_step": 2}),
    "OLMoE": ("olmoe", {"num_experts": 6, "num_experts_per_tok": 3}),
    "DeepSeek-V2": (
        "deepseek_v2",
        {**LATENT, **GROUPED, "topk_method": "group_limited_greedy", "routed_scaling_factor": 2.0},
    ),
    "DeepSeek-V2-Lite, yarn": (
        "deepseek_v2",
        {**LATENT, "q_lora_rank": None, "rope_parameters": YARN, "attention_bias": True},
    ),
    "DeepSeek-V3": ("deepseek_v3", {**LATENT, **GROUPED, "attention_bias": True}),
    "DeepSeek-V3, yarn, in halves": (
        "deepseek_v3",
        {**LATENT, **GROUPED, "rope_interleave": False, "rope_parameters": YARN},
    ),
    "GPT-OSS": (
        "gpt_oss",
        {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 16, "sliding_window": 7},
    ),
    "GLM-4.5": (
        "glm4_moe",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "head_dim": 16,
            "use_qk_norm": True,
            "attention_bias": True,
        },
    ),
    "Granite": (
        "granitemoe",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "embedding_multiplier": 2.0,
            "logits_scaling": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "tie_word_embeddings": True,
        },
    ),
}


@pytest.fixture
def both(request: pytest.FixtureRequest, oracle: Callable[..., Any]) -> Any:
    """The models of a variant, with biases that count."""
    family, changes = VARIANTS[request.param]
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    config._experts_implementation = "eager"
    pair = oracle(config)
    random = torch.Generator().manual_seed(4)
    for name, buffer in pair.reference.named_buffers():
        if name.endswith("e_score_correction_bias"):  # which would stay at its zeros
            buffer.copy_(torch.randn(buffer.shape, generator=random) * 0.1)
    pair.reference.save_pretrained(pair.directory)
    with open_checkpoint(pair.directory) as reader:
        *_, pair.decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
    assert isinstance(pair.decoder, Decoder)
    return pair


@pytest.mark.parametrize("both", VARIANTS, indirect=True)
def test_a_family_is_transformers(both: Any) -> None:
    activity = record_activity(
        both.decoder.weights.get(layer).ffn for layer in range(SIZES["num_hidden_layers"])
    )
    both.check()
    assert activity.counts
    for counts in activity.counts.values():
        assert sum(map(bool, counts)) > len(counts) // 2  # what never ran was not compared
