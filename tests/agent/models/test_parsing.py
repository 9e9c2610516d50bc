"""Configurations of the dense families are understood, or refused by name."""

from typing import Any

import pytest
import torch

from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.kvcache import LayerKv
from lite_llm.models import DecoderConfig, parse_config
from lite_llm.models.attention import AttentionConfig

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 1,
    "dtype": "float32",
}
GEMMA: dict[str, Any] = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}
GEMMA |= {"hidden_activation": "gelu_pytorch_tanh"}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {"hidden_act": "silu", "mlp_bias": False, "attention_bias": False}),
    "Mistral": ("mistral", {"hidden_act": "silu", "sliding_window": 32}),
    "Qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}),
    "Qwen3": ("qwen3", {"head_dim": 32, "attention_bias": False, "tie_word_embeddings": True}),
    "Gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 50.0}),
    "Gemma3": ("gemma3_text", {**GEMMA, "rope_local_base_freq": 1e4, "rope_theta": 1e6}),
    "Phi3": ("phi3", {"original_max_position_embeddings": 512, "sliding_window": None}),
}


def fields(family: str, **changes: Any) -> dict[str, Any]:
    kind, own = OWN[family]
    names = {"architectures": [f"{family}ForCausalLM"], "model_type": kind}
    return {**names, **SIZES, **own, **changes}


def parse(family: str, **changes: Any) -> DecoderConfig:
    return parse_config(fields(family, **changes))


def attention(config: DecoderConfig, layer: int = 0) -> AttentionConfig:
    found = config.layers[layer].attention
    assert isinstance(found, AttentionConfig)
    return found


@pytest.mark.parametrize("family", OWN)
def test_plain_configurations(family: str) -> None:
    config = parse(family)
    assert config.family in OWN[family][0]
    assert (config.vocab_size, config.hidden_size, len(config.layers)) == (320, 64, 3)
    assert (config.context_tokens, config.dtype) == (512, torch.float32)
    assert config.eos_token_ids == {1}
    assert config.tied is (family in ("Qwen3", "Gemma2", "Gemma3"))


@pytest.mark.parametrize("family", OWN)
def test_older_files_say_the_same_in_other_words(family: str) -> None:
    newer = fields(family, bos_token_id=0, use_cache=False, _name_or_path="/x")
    older = {**newer, "torch_dtype": newer.pop("dtype")}
    del older["dtype"]
    if family != "Gemma3":
        newer |= {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
        older |= {"rope_theta": 5e5, "rope_scaling": None}
    newer |= {"dtype": "float32"}
    assert parse_config(older) == parse_config(newer)


def test_gemma3s_two_ropes_in_both_spellings() -> None:
    linear = {"rope_type": "linear", "factor": 8.0}
    by_type = {"full_attention": {**linear, "rope_theta": 1e6}}
    by_type |= {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    older = parse("Gemma3", rope_scaling=linear, sliding_window_pattern=3)
    newer = parse(
        "Gemma3",
        rope_parameters=by_type,
        rope_theta=None,
        rope_local_base_freq=None,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    assert older == newer
    assert [attention(newer, layer).window for layer in range(3)] == [32, 32, None]
    ropes = [layer.attention.rope for layer in newer.layers]
    assert ropes[0] == ropes[1] != ropes[2]


def test_windows_by_layer() -> None:
    def windows(family: str, **changes: Any) -> list[int | None]:
        return [layer.window for layer in parse(family, **changes).kv_layout.layers]

    assert windows("Llama") == [None] * 3
    assert windows("Mistral") == [32] * 3
    assert windows("Mistral", sliding_window=None) == [None] * 3
    assert windows("Qwen2") == [None, None, 32]
    assert windows("Qwen2", use_sliding_window=False) == [None] * 3
    assert windows("Gemma2") == [32, None, 32]
    types = ["full_attention", "sliding_attention", "full_attention"]
    assert windows("Gemma2", layer_types=types) == [None, 32, None]
    assert windows("Gemma3", num_hidden_layers=7) == [32] * 5 + [None, 32]
    without = fields("Mistral")
    del without["sliding_window"]  # transformers' default is not null
    assert attention(parse_config(without)).window == 4096


def test_what_is_remembered_of_a_token() -> None:
    layout = parse("Qwen3").kv_layout
    assert layout.layers == (LayerKv(kv_heads=2, key_dim=32, value_dim=32),) * 3
    assert layout.dtype is torch.float32


def test_absence_and_null_differ_for_gemmas_caps() -> None:
    assert parse("Gemma2").logit_softcap == 30.0
    assert parse("Gemma2", final_logit_softcapping=None).logit_softcap is None
    assert attention(parse("Gemma2", attn_logit_softcapping=None)).softcap is None
    assert parse("Gemma3").logit_softcap is None


def test_gemmas_embedding_scale_is_rounded_as_its_embeddings_are() -> None:
    assert parse("Gemma2", hidden_size=3072, dtype="bfloat16").embedding_scale == 55.5
    assert parse("Gemma2", hidden_size=3072).embedding_scale == pytest.approx(55.4256)


def test_a_served_context_is_at_most_the_models() -> None:
    for asked, served in ((None, 512), (100, 100), (4096, 512)):
        assert parse_config(fields("Llama"), context_tokens=asked).context_tokens == served


def test_defaults_of_absent_fields() -> None:
    config = parse("Llama", num_key_value_heads=None, eos_token_id=None)
    assert config.layers[0].attention.kv == LayerKv(kv_heads=4, key_dim=16, value_dim=16)
    assert config.eos_token_ids == frozenset()


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("Llama", "architectures", ["Llama4ForConditionalGeneration"]),
        ("Llama", "architectures", ["Gemma3ForConditionalGeneration"]),
        ("Llama", "architectures", ["LlamaForCausalLM", "LlamaForCausalLM"]),
        ("Llama", "architectures", None),
        ("Llama", "architectures", "LlamaForCausalLM"),
        ("Llama", "model_type", "mistral"),
        ("Llama", "hidden_act", "relu"),
        ("Llama", "quantization_config", {"quant_method": "gptq"}),
        ("Llama", "sliding_window", 4096),
        ("Llama", "dtype", "float8_e4m3fn"),
        ("Llama", "clip_qkv", 8.0),
        ("Mistral", "layer_types", ["full_attention"] * 3),
        ("Qwen2", "dual_chunk_attention_config", {"chunk_size": 262144}),
        ("Qwen2", "use_mrope", True),
        ("Qwen2", "layer_types", ["chunked_attention"] * 3),
        ("Gemma2", "use_bidirectional_attention", True),
        ("Gemma3", "attn_logit_softcapping", 50.0),
        ("Gemma3", "vision_config", {}),
        ("Phi3", "full_attn_mod", 2),
        ("Phi3", "lm_head_bias", True),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(family: str, field: str, value: object) -> None:
    with pytest.raises(Unsupported, match=f"{field} = .* is not supported") as refusal:
        parse(family, **{field: value})
    assert refusal.value.where == field


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("Llama", "hidden_size", 0),
        ("Llama", "hidden_size", "64"),
        ("Llama", "hidden_size", True),
        ("Llama", "hidden_size", 63),
        ("Llama", "vocab_size", None),
        ("Llama", "num_hidden_layers", -1),
        ("Llama", "num_hidden_layers", 10**12),
        ("Llama", "num_key_value_heads", 3),
        ("Llama", "head_dim", 15),
        ("Llama", "rms_norm_eps", float("nan")),
        ("Llama", "rms_norm_eps", -1e-5),
        ("Llama", "tie_word_embeddings", "yes"),
        ("Llama", "eos_token_id", 320),
        ("Llama", "eos_token_id", [1, "2"]),
        ("Llama", "rope_parameters", [1]),
        ("Llama", "max_position_embeddings", 1.5),
        ("Llama", "max_position_embeddings", 1 << 40),
        ("Mistral", "sliding_window", 0),
        ("Qwen2", "layer_types", ["full_attention"]),
        ("Qwen3", "layer_types", ["sliding_attention"] * 3),
        ("Qwen3", "head_dim", None),
        ("Gemma2", "sliding_window", None),
        ("Gemma2", "query_pre_attn_scalar", 0),
        ("Gemma3", "sliding_window_pattern", 0),
        ("Phi3", "original_max_position_embeddings", 0),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(
    family: str, field: str, value: object
) -> None:
    with pytest.raises(Corrupt, match=f"config.json: {field} is") as refusal:
        parse(family, **{field: value})
    assert refusal.value.where == field
