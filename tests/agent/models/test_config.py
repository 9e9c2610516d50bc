"""Configurations are understood, or refused by name."""

from typing import Any

import pytest

from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.models import LlamaConfig, parse_json
from lite_llm.models.first.rope import RopeConfig
from lite_llm.testing.checkpoints import Shape, llama_config

FIELDS = llama_config(Shape())


def parse(**changes: Any) -> LlamaConfig:
    return LlamaConfig.parse({**FIELDS, **changes})


def test_a_plain_configuration() -> None:
    assert parse() == LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        ffn_size=128,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        context_tokens=512,
        norm_epsilon=1e-5,
        tied=False,
        dtype="float32",
        rope=RopeConfig(),
        eos_token_ids=frozenset({1}),
    )


def test_older_files_say_the_same_in_other_words() -> None:
    fields = {
        name: value for name, value in FIELDS.items() if name not in ("dtype", "rope_parameters")
    }
    older = {"torch_dtype": "float32", "rope_theta": 5e5, "rope_scaling": {"type": "linear"}}
    older["rope_scaling"]["factor"] = 2.0  # type: ignore[index]  # a dict of mixed values
    assert LlamaConfig.parse({**fields, **older}) == parse(
        rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    )


def test_defaults_of_absent_fields() -> None:
    config = parse(num_key_value_heads=None, head_dim=None, eos_token_id=None)
    assert (config.num_kv_heads, config.head_dim, config.eos_token_ids) == (4, 16, frozenset())


def test_fields_that_change_no_answer_are_ignored() -> None:
    ignored = {"use_cache": True, "transformers_version": "5.23.0", "_name_or_path": "/x"}
    assert parse(**ignored, some_new_thing=None, pad_token_id=7) == parse()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", ["MixtralForCausalLM"]),
        ("architectures", None),
        ("architectures", "LlamaForCausalLM"),
        ("model_type", "mistral"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("quantization_config", {"quant_method": "gptq"}),
        ("sliding_window", 4096),
        ("dtype", "float8_e4m3fn"),
        ("dtype", None),
        ("clip_qkv", 8.0),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(Unsupported, match=f"{field} = .* is not supported") as refusal:
        parse(**{field: value})
    assert refusal.value.where == field


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, "rope_type"),
        ({"rope_type": ["default"]}, "rope_type"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 32}, "beta_fast"),
    ],
)
def test_rope_that_is_not_implemented_is_refused_by_name(rope: object, named: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        parse(rope_parameters=rope)
    assert refusal.value.where == named


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "64"),
        ("hidden_size", True),
        ("vocab_size", None),
        ("num_hidden_layers", -1),
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", -1e-5),
        ("tie_word_embeddings", "yes"),
        ("eos_token_id", 320),
        ("eos_token_id", [1, "2"]),
        ("rope_parameters", [1]),
        ("max_position_embeddings", 1.5),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(Corrupt, match=f"config.json: {field} is") as refusal:
        parse(**{field: value})
    assert refusal.value.where == field


@pytest.mark.parametrize("field", ["factor", "low_freq_factor", "high_freq_factor"])
def test_llama3_needs_its_factors(field: str) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert parse(rope_parameters=rope).rope.original_context == 512
    with pytest.raises(Corrupt) as refusal:
        parse(rope_parameters={**rope, field: None})
    assert refusal.value.where == field
    with pytest.raises(Corrupt, match="high_freq_factor"):
        parse(rope_parameters={**rope, "low_freq_factor": 4.0})


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b'{"a": ' * 100_000, b"\xff"])
def test_broken_json(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"a/generation_config\.json"):
        parse_json(data, "a/generation_config.json")


def test_huge_sizes_are_only_numbers() -> None:
    assert LlamaConfig.parse({**FIELDS, "num_hidden_layers": 10**12}).num_layers == 10**12
