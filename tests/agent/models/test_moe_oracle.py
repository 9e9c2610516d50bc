"""Every family with experts beside transformers: logits, greedy tokens, bits in any company."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from lite_llm.checkpoint import open_checkpoint
from lite_llm.kernels import set_threads
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
def both_of(oracle: Callable[..., Any]) -> Callable[..., Any]:
    """The models of a variant, with biases that count."""

    def make(name: str, **further: Any) -> Any:
        family, changes = VARIANTS[name]
        config = AutoConfig.for_model(family, **{**SIZES, **changes, **further})
        config._experts_implementation = "eager"
        pair = oracle(config)
        random = torch.Generator().manual_seed(4)
        for place, buffer in pair.reference.named_buffers():
            if place.endswith("e_score_correction_bias"):  # which would stay at its zeros
                buffer.copy_(torch.randn(buffer.shape, generator=random) * 0.1)
        pair.reference.save_pretrained(pair.directory)
        with open_checkpoint(pair.directory) as reader:
            *_, pair.decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
        assert isinstance(pair.decoder, Decoder)
        return pair

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_a_family_is_transformers(both_of: Callable[..., Any], name: str) -> None:
    both = both_of(name)
    activity = record_activity(
        both.decoder.weights.get(layer).ffn for layer in range(SIZES["num_hidden_layers"])
    )
    both.check()
    assert activity.counts
    for counts in activity.counts.values():
        assert sum(map(bool, counts)) > len(counts) // 2  # what never ran was not compared


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2-MoE", "DeepSeek-V3", "GPT-OSS", "GLM-4.5"])
def test_half_precision_is_near_and_invariant(
    both_of: Callable[..., Any], run: Callable[..., list[Tensor]], name: str
) -> None:
    both = both_of(name, dtype="bfloat16")
    assert both.decoder.config.dtype is torch.bfloat16
    tokens = torch.randint(128, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    ours_TV = both.decoder.logits(run(both.decoder, [tokens])[0])
    theirs_TV = both.expected(tokens)
    both.reference.float()
    exact_TV = both.expected(tokens)
    # Where rounding chooses another expert both are far off, so it is the other rows that count.
    ours, theirs = ((one - exact_TV).abs().mean(1).median() for one in (ours_TV, theirs_TV))
    assert ours < 1.5 * theirs
    both.check_invariance(tokens)


def test_the_number_of_threads_changes_no_bit(
    both_of: Callable[..., Any], run: Callable[..., list[Tensor]]
) -> None:
    decoder = both_of("DeepSeek-V3").decoder
    tokens = [list(range(90)), list(range(30, 70))]
    one = run(decoder, tokens)
    try:
        torch.set_num_threads(2)
        set_threads(2)
        two = run(decoder, tokens)
    finally:
        torch.set_num_threads(1)
        set_threads(1)
    assert all(map(torch.equal, one, two))
