"""Whatever stands in a field of any family: it is understood, or refused by name."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.models import ARCHITECTURES, DecoderConfig, parse_config

MODEL_TYPES = {
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GptOssForCausalLM": "gpt_oss",
    "GraniteMoeForCausalLM": "granitemoe",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "OlmoeForCausalLM": "olmoe",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
RELEASED = {  # where the defaults of transformers are no model
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 6},
    "Glm4MoeForCausalLM": {"head_dim": 128},
}
OURS = {
    "LiteLlmHserForCausalLM": {
        "model_type": "lite_llm_hser",
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "top_k_tiers": 1,
        "tiers": [
            {"groups": 2, "experts_per_group": 2, "top_k_groups": 1, "top_k_experts": 1},
        ],
    }
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 3, 64, 2**31, 10**30])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["yarn", "longrope", "sliding_attention", "silu", "sigmoid", "greedy"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rope_type", "type", "factor", "rope_theta", "full_attention", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)


@cache
def plain(architecture: str) -> dict[str, Any]:
    """As the family's defaults are written."""
    head = {"architectures": [architecture], "dtype": "float32"}
    if architecture in OURS:
        return {**OURS[architecture], **head}
    defaults = AutoConfig.for_model(MODEL_TYPES[architecture]).to_dict()
    return {**defaults, **RELEASED.get(architecture, {}), **head}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_defaults_of_every_family_are_understood(architecture: str) -> None:
    assert parse_config(plain(architecture)).layers


@given(st.sampled_from(sorted(ARCHITECTURES)), st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_hostile_values_are_understood_or_refused(architecture: str, data: st.DataObject) -> None:
    fields = plain(architecture)
    names = st.sampled_from(sorted(fields.keys() | {"rope_scaling", "rope_theta", "new"}))
    changes = data.draw(st.dictionaries(names, VALUES, max_size=2))
    try:
        config = parse_config({**fields, **changes})
    except (Corrupt, Unsupported) as error:
        refusal = error
    else:
        assert isinstance(config, DecoderConfig)
        return
    assert refusal.where
    assert len(str(refusal)) < 1000
