"""The configurations of released models with experts are understood, with every field they have."""

from typing import Any

import pytest
import torch

from lite_llm.models import parse_config
from lite_llm.models.latent_attention import LatentAttentionConfig
from lite_llm.models.moe import MoeConfig

BOOKKEEPING: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "output_router_logits": False,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.55.0",
    "use_cache": True,
}
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
)


def config(architecture: str, model_type: str, sizes: str, **own: Any) -> dict[str, Any]:
    counts = dict(zip(SIZES, map(int, sizes.split()), strict=True))
    head = {"architectures": [architecture], "model_type": model_type}
    return {**head, **BOOKKEEPING, **counts, **own}


YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "type": "yarn"}
YARN |= {"original_max_position_embeddings": 4096}
DEEPSEEK: dict[str, Any] = {
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "kv_lora_rank": 512,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rope_theta": 10000,
    "seq_aux": True,
    "v_head_dim": 128,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
}
RELEASED = {
    "Mixtral-8x7B": config(
        "MixtralForCausalLM", "mixtral", "32000 4096 14336 32 32 8 32768",
        num_experts_per_tok=2, num_local_experts=8, rope_theta=1000000.0,
        router_aux_loss_coef=0.02, sliding_window=None,
    ),
    "Qwen1.5-MoE-A2.7B": config(
        "Qwen2MoeForCausalLM", "qwen2_moe", "151936 2048 5632 24 16 16 8192",
        decoder_sparse_step=1, max_window_layers=21, moe_intermediate_size=1408,
        norm_topk_prob=False, num_experts=60, num_experts_per_tok=4, rope_theta=1000000.0,
        router_aux_loss_coef=0.001, shared_expert_intermediate_size=5632, sliding_window=32768,
        use_sliding_window=False,
    ),
    "Qwen3-30B-A3B": config(
        "Qwen3MoeForCausalLM", "qwen3_moe", "151936 2048 6144 48 32 4 40960",
        attention_bias=False, decoder_sparse_step=1, head_dim=128, max_window_layers=48,
        mlp_only_layers=[], moe_intermediate_size=768, norm_topk_prob=True, num_experts=128,
        num_experts_per_tok=8, rope_scaling=None, rope_theta=1000000.0,
        router_aux_loss_coef=0.001, sliding_window=None, use_sliding_window=False,
    ),
    "OLMoE-1B-7B": config(
        "OlmoeForCausalLM", "olmoe", "50304 2048 1024 16 16 16 4096",
        attention_bias=False, clip_qkv=None, norm_topk_prob=False, num_experts=64,
        num_experts_per_tok=8, rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.01,
    ),
    "DeepSeek-V2-Lite": config(
        "DeepseekV2ForCausalLM", "deepseek_v2", "102400 2048 10944 27 16 16 163840",
        **DEEPSEEK, first_k_dense_replace=1, moe_intermediate_size=1408, n_group=1,
        n_routed_experts=64, n_shared_experts=2, norm_topk_prob=False, num_experts_per_tok=6,
        q_lora_rank=None, rope_scaling={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        routed_scaling_factor=1.0, scoring_func="softmax", topk_group=1, topk_method="greedy",
    ),
    "DeepSeek-V3 in bf16": config(
        "DeepseekV3ForCausalLM", "deepseek_v3", "129280 7168 18432 61 128 128 163840",
        **DEEPSEEK, first_k_dense_replace=3, moe_intermediate_size=2048, n_group=8,
        n_routed_experts=256, n_shared_experts=1, norm_topk_prob=True, num_experts_per_tok=8,
        num_nextn_predict_layers=1, q_lora_rank=1536,
        rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, routed_scaling_factor=2.5,
        scoring_func="sigmoid", topk_group=4, topk_method="noaux_tc",
    ),
    "GLM-4.5-Air": config(
        "Glm4MoeForCausalLM", "glm4_moe", "151552 4096 10944 46 96 8 131072",
        attention_bias=True, first_k_dense_replace=1, head_dim=128, moe_intermediate_size=1408,
        n_group=1, n_routed_experts=128, n_shared_experts=1, norm_topk_prob=True,
        num_experts_per_tok=8, num_nextn_predict_layers=1, pad_token_id=151329,
        partial_rotary_factor=0.5, rope_scaling=None, rope_theta=1000000,
        routed_scaling_factor=1.0, topk_group=1, use_qk_norm=False,
    ),
    "Granite-3.0-1B-A400M": config(
        "GraniteMoeForCausalLM", "granitemoe", "49155 1024 512 24 16 8 4096",
        attention_bias=False, attention_multiplier=0.015625, embedding_multiplier=12.0,
        logits_scaling=6.0, num_experts_per_tok=8, num_local_experts=32,
        residual_multiplier=0.22, rope_scaling=None, rope_theta=10000,
        router_aux_loss_coef=0.0,
    ),
    "GPT-OSS-20B": config(
        "GptOssForCausalLM", "gpt_oss", "201088 2880 2880 24 64 8 131072",
        torch_dtype=None, attention_bias=True, experts_per_token=4, head_dim=64,
        initial_context_length=4096,
        layer_types=["sliding_attention", "full_attention"] * 12, num_experts_per_tok=4,
        num_local_experts=32, rope_theta=150000, router_aux_loss_coef=0.9, sliding_window=128,
        rope_scaling={**YARN, "factor": 32.0, "truncate": False}, swiglu_limit=7.0,
        quantization_config={"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_are_understood(name: str) -> None:
    fields = RELEASED[name]
    parsed = parse_config(fields)
    assert parsed.dtype is torch.bfloat16
    assert parsed.context_tokens == fields["max_position_embeddings"]
    assert len(parsed.layers) == fields["num_hidden_layers"]
    assert isinstance(parsed.layers[-1].ffn, MoeConfig)


def test_latent_attention_is_what_its_papers_say() -> None:
    lite, v3 = (
        parse_config(RELEASED[name]).layers[0].attention
        for name in ("DeepSeek-V2-Lite", "DeepSeek-V3 in bf16")
    )
    assert isinstance(lite, LatentAttentionConfig)
    assert isinstance(v3, LatentAttentionConfig)
    assert (lite.query_rank, v3.query_rank) == (None, 1536)
    assert lite.scale == pytest.approx(192**-0.5 * (0.1 * 0.707 * 3.6888795 + 1) ** 2)
    assert v3.scale == pytest.approx(192**-0.5 * (0.1 * 3.6888795 + 1) ** 2)
    # Both factors of the rotation cancel where they are equal.
    assert (lite.rope.attention_factor, v3.rope.attention_factor) == (1.0, 1.0)
