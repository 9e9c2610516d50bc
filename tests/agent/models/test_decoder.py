"""One forward pass over the rows of any sequences: bits that no schedule changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lite_llm.experts import ResidentBank
from lite_llm.models import Decoder, DecoderConfig, Weights, parse_config
from lite_llm.models.weights import Head, Layer

FIELDS: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "query_pre_attn_scalar": 8,
    "rms_norm_eps": 1e-6,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "final_logit_softcapping": 3.0,
    "dtype": "bfloat16",
}
SEQUENCES = [list(range(3, 30)), [9, 9, 9, 4, 60], [*range(40, 60), 1, 2]]


def random_decoder(config: DecoderConfig) -> Decoder:
    generator = torch.Generator().manual_seed(6)

    def random(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * 0.4).to(config.dtype)

    weights = Weights(len(config.layers))
    embedding_VD = random(config.vocab_size, config.hidden_size)
    weights.put_embedding(embedding_VD)
    for number, layer in enumerate(config.layers):
        attention = {name: random(*each.shape) for name, each in layer.attention.weights().items()}
        ffn = {name: random(*each.shape) for name, each in layer.ffn.weights().items()}
        norms = [random(config.hidden_size) for _ in range(4)]
        built = layer.attention.build(attention), layer.ffn.build(ffn, ResidentBank([]))
        weights.put(number, Layer(*built, *norms))
    weights.put_head(Head(random(config.hidden_size), embedding_VD))
    return Decoder(config, weights)


DECODER = random_decoder(parse_config(FIELDS))


@pytest.fixture(scope="module")
def alone() -> dict[int, Tensor]:
    """Hidden states of each sequence by itself, filled when it is first wanted."""
    return {}


@given(chunks=st.lists(st.integers(1, 30), min_size=3, max_size=3), order=st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_no_schedule_changes_a_bit(
    run: Callable[..., list[Tensor]],
    alone: dict[int, Tensor],
    chunks: list[int],
    order: list[int],
) -> None:
    batch = run(DECODER, [SEQUENCES[number] for number in order], chunks)
    for number, hidden_TD in zip(order, batch, strict=True):
        if number not in alone:
            (alone[number],) = run(DECODER, [SEQUENCES[number]])
        assert torch.equal(hidden_TD, alone[number])


def test_logits_are_of_each_row_and_capped(run: Callable[..., list[Tensor]]) -> None:
    (hidden_TD,) = run(DECODER, [SEQUENCES[0]])
    logits_TV = DECODER.logits(hidden_TD)
    assert logits_TV.dtype is torch.float32
    assert logits_TV.shape == (27, 64)
    assert logits_TV.abs().max() <= 3.0
    for row in (0, 26):
        assert torch.equal(DECODER.logits(hidden_TD[row : row + 1])[0], logits_TV[row])


def test_what_a_cache_must_hold_is_known_before_any_weight_is_there() -> None:
    config = parse_config(FIELDS)
    decoder = Decoder(config, Weights(2))
    assert [layer.window for layer in decoder.kv_layout.layers] == [5, None]
    assert decoder.kv_layout.dtype is torch.bfloat16
    assert decoder.kv_layout == config.kv_layout
