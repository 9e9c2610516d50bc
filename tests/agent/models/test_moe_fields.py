"""What a family with experts doesn't implement, or what makes no sense, is refused by name."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.experts import Gate, GroupScore, Scoring, TooFewExperts
from lite_llm.models import DecoderConfig, parse_config
from lite_llm.models.hser import TieredMoeConfig
from lite_llm.models.moe import MoeConfig, check_masks, with_routing_seed

ARCHITECTURES = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
}
SIGMOID: dict[str, Any] = {
    "scoring": Scoring.SIGMOID,
    "normalized": True,
    "epsilon": 1e-20,
    "group_score": GroupScore.BEST_TWO,
}


def fields(family: str, **changes: Any) -> dict[str, Any]:
    """What transformers writes by default, which are the released models' sizes."""
    changes = {"num_experts_per_tok": 4, **changes}
    if family == "glm4_moe":
        changes = {"head_dim": 128, **changes}
    values = AutoConfig.for_model(family, eos_token_id=None).to_dict()
    named = {"architectures": [ARCHITECTURES[family]], "dtype": "bfloat16"}
    return {**values, **named, **changes}


@pytest.mark.parametrize(
    ("family", "layer", "experts", "gate"),
    [
        ("mixtral", 0, 8, Gate(top_k=2, normalized=True)),
        ("qwen2_moe", 0, 60, Gate(top_k=4)),
        ("qwen3_moe", 5, 128, Gate(top_k=8)),
        ("olmoe", 15, 64, Gate(top_k=8)),
        ("deepseek_v2", 1, 64, Gate(top_k=6)),
        ("deepseek_v3", 3, 256, Gate(top_k=8, scale=2.5, groups=8, top_k_groups=4, **SIGMOID)),
        ("glm4_moe", 1, 128, Gate(top_k=8, **SIGMOID)),
        ("gpt_oss", 1, 128, Gate(top_k=4, scoring=Scoring.CHOSEN_SOFTMAX)),
        ("granitemoe", 1, 8, Gate(top_k=2, scoring=Scoring.CHOSEN_SOFTMAX)),
    ],
)
def test_the_gate_of_a_family(family: str, layer: int, experts: int, gate: Gate) -> None:
    config = parse_config(fields(family, num_experts_per_tok=gate.top_k))
    ffn = config.layers[layer].ffn
    assert isinstance(ffn, MoeConfig)
    assert (ffn.layer, ffn.experts, ffn.gate) == (layer, experts, gate)


def test_layers_without_experts() -> None:
    config = parse_config(fields("deepseek_v3"))
    assert [isinstance(layer.ffn, MoeConfig) for layer in config.layers] == [False] * 3 + [
        True
    ] * 58
    assert config.extra_layers == 1
    steps = parse_config(fields("qwen3_moe", decoder_sparse_step=3, mlp_only_layers=[5]))
    sparse = [isinstance(layer.ffn, MoeConfig) for layer in steps.layers]
    assert [number for number, is_sparse in enumerate(sparse) if is_sparse] == [
        2,
        8,
        11,
        14,
        17,
        20,
        23,
    ]


def test_latent_attention_remembers_one_vector_a_token() -> None:
    (layer, *_) = parse_config(fields("deepseek_v3")).kv_layout.layers
    assert (layer.kv_heads, layer.key_dim, layer.value_dim, layer.shared) == (1, 576, 512, True)
    assert layer.elements == 576


def test_every_other_layer_of_gpt_oss_slides() -> None:
    windows = [layer.window for layer in parse_config(fields("gpt_oss")).kv_layout.layers]
    assert windows == [128, None] * 18


def test_files_as_their_makers_released_them() -> None:
    older = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
    older |= {"ep_size": 1, "seq_aux": True, "aux_loss_alpha": 0.001}
    assert parse_config(fields("deepseek_v3", **older)) == parse_config(fields("deepseek_v3"))
    quantized = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}
    released = fields("gpt_oss", quantization_config=quantized, experts_per_token=4)
    released |= {"initial_context_length": 4096, "swiglu_alpha": None, "attention_bias": True}
    assert parse_config(released) == parse_config(fields("gpt_oss"))


def test_a_routing_seed_reaches_every_router() -> None:
    config = with_routing_seed(parse_config(fields("deepseek_v2", first_k_dense_replace=1)), 77)
    ffns = [layer.ffn for layer in config.layers]
    assert not isinstance(ffns[0], MoeConfig | TieredMoeConfig)
    assert {ffn.routing_seed for ffn in ffns if isinstance(ffn, MoeConfig)} == {77}


def masks(config: DecoderConfig, *allowed: int) -> list[Tensor | None]:
    """Of one row: in the last layer, the only one, these experts."""
    ffn = config.layers[-1].ffn
    assert isinstance(ffn, MoeConfig)
    mask_1E = torch.zeros(1, ffn.experts, dtype=torch.bool)
    mask_1E[0, list(allowed)] = True
    return [*[None] * (len(config.layers) - 1), mask_1E]


def test_masks_that_leave_too_few_experts_are_refused_before_a_request_runs() -> None:
    mixtral = parse_config(fields("mixtral", num_experts_per_tok=2))
    check_masks(mixtral, masks(mixtral, 3, 6))
    with pytest.raises(TooFewExperts, match="layer 31 needs 2 experts a token, but 1 may be left"):
        check_masks(mixtral, masks(mixtral, 3))


def test_masks_are_refused_if_the_best_groups_could_hold_too_few() -> None:
    # Four of eight groups of 32: these could be the four of which one expert is allowed each.
    v3 = parse_config(fields("deepseek_v3", num_experts_per_tok=8))
    single = [32 * group for group in range(4)]
    with pytest.raises(TooFewExperts, match="layer 60 needs 8 experts a token, but 4 may be left"):
        check_masks(v3, masks(v3, *single, *range(128, 256)))
    check_masks(v3, masks(v3, *range(128, 136)))
    check_masks(v3, masks(v3, *single, *[number + 1 for number in single]))


@pytest.mark.parametrize(
    ("family", "changes", "error", "named"),
    [
        ("mixtral", {"hidden_act": "relu2"}, Unsupported, "hidden_act"),
        ("mixtral", {"num_experts_per_tok": 9}, Corrupt, "num_experts_per_tok"),
        ("mixtral", {"num_local_experts": 0}, Corrupt, "num_local_experts"),
        ("mixtral", {"num_local_experts": 1 << 40}, Corrupt, "num_local_experts"),
        ("mixtral", {"expert_capacity": 64}, Unsupported, "expert_capacity"),
        ("qwen2_moe", {"use_sliding_window": True}, Unsupported, "use_sliding_window"),
        ("qwen2_moe", {"mlp_only_layers": ["1"]}, Corrupt, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, Corrupt, "decoder_sparse_step"),
        ("olmoe", {"clip_qkv": 8.0}, Unsupported, "clip_qkv"),
        ("deepseek_v2", {"norm_topk_prob": True}, Unsupported, "norm_topk_prob"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, Unsupported, "scoring_func"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, Unsupported, "topk_method"),
        ("deepseek_v3", {"moe_layer_freq": 2}, Unsupported, "moe_layer_freq"),
        (
            "deepseek_v3",
            {"quantization_config": {"quant_method": "fp8"}},
            Unsupported,
            "quantization_config",
        ),
        ("deepseek_v3", {"n_group": 7}, Corrupt, "n_group"),
        ("deepseek_v3", {"topk_group": 9}, Corrupt, "topk_group"),
        ("deepseek_v3", {"n_group": 128, "topk_group": 1}, Corrupt, "num_experts_per_tok"),
        (
            "deepseek_v3",
            {"qk_rope_head_dim": 63, "head_dim": None, "qk_head_dim": None},
            Corrupt,
            "qk_rope_head_dim",
        ),
        ("deepseek_v3", {"num_key_value_heads": 8}, Unsupported, "num_key_value_heads"),
        ("glm4_moe", {"use_qk_norm": "yes"}, Corrupt, "use_qk_norm"),
        ("gpt_oss", {"quantization_config": {"quant_method": "awq"}}, Unsupported, "quant_method"),
        ("gpt_oss", {"experts_per_token": 2}, Unsupported, "experts_per_token"),
        ("granitemoe", {"logits_scaling": 0}, Corrupt, "logits_scaling"),
    ],
)
def test_fields_are_refused_by_name(
    family: str, changes: dict[str, Any], error: type[LiteLLMError], named: str
) -> None:
    with pytest.raises(error) as refusal:
        parse_config(fields(family, **changes))
    assert refusal.value.where == named
