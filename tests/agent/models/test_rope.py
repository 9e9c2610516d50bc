"""Rotary frequencies have transformers' bits; what they can't be is refused by name."""

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.models.fields import Fields
from lite_llm.models.rope import RopeConfig, RopeTable, frequencies
from lite_llm.models.rope_fields import read_rope

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
ORIGINAL = {"original_max_position_embeddings": 4096}
DEEPSEEK = {"factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.7}
SHORT, LONG = [1.0 + 0.05 * i for i in range(32)], [1.0 + 1.7 * i for i in range(32)]


def ours(rope: dict[str, Any], **fields: Any) -> RopeConfig:
    values = {"max_position_embeddings": 131072, "rope_parameters": rope, **fields}
    return read_rope(Fields(values), head_dim=64, partial=1.0)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("linear", {"factor": 3.0}),
        ("dynamic", {"factor": 3.0}),
        ("llama3", LLAMA3),
        ("yarn", {"factor": 4.0, **ORIGINAL}),
        ("yarn", {"factor": 32.0, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False}),
        ("yarn", {**DEEPSEEK, **ORIGINAL}),
        ("yarn", {"factor": 8.0, "attention_factor": 1.25, **ORIGINAL}),
        ("longrope", {"short_factor": SHORT, "long_factor": LONG, **ORIGINAL}),
        ("longrope", {"short_factor": SHORT, "long_factor": LONG, "factor": 2.0, **ORIGINAL}),
    ],
)
@pytest.mark.parametrize("theta", [10000.0, 1e6])
def test_frequencies_are_those_of_transformers(
    kind: str, parameters: dict[str, Any], theta: float
) -> None:
    rope = {"rope_type": kind, "rope_theta": theta, **parameters}
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters=dict(rope),
    )
    expected_P, factor = ROPE_INIT_FUNCTIONS[kind](config, seq_len=131072)
    parsed = ours(rope)
    assert torch.equal(frequencies(parsed), expected_P)
    assert parsed.attention_factor == factor


def test_longrope_takes_the_factors_of_the_served_context() -> None:
    rope = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
    fields = {"max_position_embeddings": 131072, "rope_parameters": {**rope, **ORIGINAL}}
    for served, factors in ((4096, SHORT), (4097, LONG), (None, LONG)):
        config = read_rope(Fields(fields), head_dim=64, context_tokens=served)
        assert config.scaling is not None
        assert getattr(config.scaling, "factors") == tuple(factors)  # noqa: B009  # of a union
    expected_P, _ = ROPE_INIT_FUNCTIONS["longrope"](
        Phi3Config(
            hidden_size=256,
            num_attention_heads=4,
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            rope_parameters=dict(rope),
        ),
        seq_len=4096,
    )
    assert torch.equal(
        frequencies(read_rope(Fields(fields), head_dim=64, context_tokens=4096)), expected_P
    )


def test_older_files_say_the_same_in_other_words() -> None:
    older = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    values = {"max_position_embeddings": 512, "partial_rotary_factor": 0.5, **older}
    assert read_rope(Fields(values), head_dim=64, partial=1.0) == ours(
        {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0, "partial_rotary_factor": 0.5}
    )
    su = {"type": "su", "short_factor": SHORT, "long_factor": LONG}
    values = {"max_position_embeddings": 131072, "rope_scaling": su} | ORIGINAL
    assert read_rope(Fields(values), head_dim=64) == ours(
        {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, **ORIGINAL}
    )


def test_angles_are_those_of_transformers_wherever_they_are_asked_for() -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    config = Gemma3TextConfig(head_dim=64, num_hidden_layers=2, max_position_embeddings=8192)
    theirs = Gemma3RotaryEmbedding(config)
    positions_T = torch.tensor([5000, 0, 1023, 1024, 77, 5000])
    cos_1TC, sin_1TC = theirs(torch.zeros(1), positions_T[None], "sliding_attention")
    grown, asked = RopeTable(RopeConfig(dim=64)), RopeTable(RopeConfig(dim=64))
    for position in positions_T.tolist():
        grown(torch.tensor([position // 7, position]))
    for table in (grown, asked):
        turn = table(positions_T)
        assert torch.equal(turn.cos_TR, cos_1TC[0])
        assert torch.equal(turn.sin_TR, sin_1TC[0])
    assert asked(torch.tensor([], dtype=torch.int64)).cos_TR.shape == (0, 64)


@pytest.mark.parametrize("inside", [False, True])
def test_whole_heads_turn_unless_the_family_says_otherwise(inside: bool) -> None:
    def parsed(factor: float, partial: float | None) -> RopeConfig:
        rope = {"partial_rotary_factor": factor}
        values = {"max_position_embeddings": 512, **({"rope_parameters": rope} if inside else rope)}
        return read_rope(Fields(values), head_dim=64, partial=partial)

    assert parsed(0.5, 1.0).dim == 32
    assert parsed(1, None).dim == 64
    with pytest.raises(Unsupported) as refusal:
        parsed(0.5, None)
    assert refusal.value.where == "partial_rotary_factor"


@pytest.mark.parametrize(
    ("error", "named", "rope"),
    [
        (Unsupported, "rope_type", {"rope_type": "mrope"}),
        (Unsupported, "type", {"type": "ntk"}),
        (Unsupported, "beta_fast", {"rope_type": "linear", "factor": 2.0, "beta_fast": 32}),
        (Unsupported, "mrope_section", {"rope_type": "default", "mrope_section": [1, 2]}),
        (Corrupt, "rope_type", {"rope_type": ["default"]}),
        (Corrupt, "rope_theta", {"rope_theta": 1.0}),
        (Corrupt, "rope_theta", {"rope_theta": float("nan")}),
        (Corrupt, "rope_theta", {"rope_theta": -1e4}),
        (Corrupt, "factor", {"rope_type": "linear"}),
        (Corrupt, "factor", {"rope_type": "yarn", "factor": 0}),
        (Corrupt, "truncate", {"rope_type": "yarn", "factor": 2.0, "truncate": 1}),
        (Corrupt, "partial_rotary_factor", {"partial_rotary_factor": 1.5}),
        (Corrupt, "partial_rotary_factor", {"partial_rotary_factor": 1 / 64}),
        (Corrupt, "partial_rotary_factor", {"partial_rotary_factor": 3 / 64}),
        (Corrupt, "high_freq_factor", {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}),
        (Corrupt, "low_freq_factor", {"rope_type": "llama3", **LLAMA3, "low_freq_factor": None}),
        (Corrupt, "short_factor", {"rope_type": "longrope", "long_factor": LONG}),
        (
            Corrupt,
            "long_factor",
            {"rope_type": "longrope", "short_factor": SHORT, "long_factor": [1.0]},
        ),
        (
            Corrupt,
            "short_factor",
            {"rope_type": "longrope", "short_factor": [*SHORT[:-1], 0], "long_factor": LONG},
        ),
        (
            Corrupt,
            "original_max_position_embeddings",
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": -1},
        ),
    ],
)
def test_what_makes_no_sense_is_named(
    error: type[LiteLLMError], named: str, rope: dict[str, Any]
) -> None:
    with pytest.raises(error) as refusal:
        ours(rope)
    assert refusal.value.where == named


def test_a_reserved_table_gives_the_same_angles_and_stays_where_it_is() -> None:
    config, positions_T = RopeConfig(dim=16), torch.tensor([0, 5, 1999])
    table, reserved = RopeTable(config), RopeTable(config)
    reserved.reserve(2000, torch.device("cpu"))
    place = reserved._cos_NR.data_ptr()
    turn, expected = reserved(positions_T), table(positions_T)
    assert torch.equal(turn.cos_TR, expected.cos_TR)
    assert torch.equal(turn.sin_TR, expected.sin_TR)
    assert reserved._cos_NR.data_ptr() == place
