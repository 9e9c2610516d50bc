"""The oracle: greedy tokens of Hugging Face's own implementation, through the whole engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lite_llm.engine import Limits, Model, Request, Sampling, load_model
from lite_llm.testing.checkpoints import Shape, tiny_llama

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS = {
    "grouped": (Shape(), 1),
    "tied, a key head each": (Shape(tied=True, kv_heads=4, layers=2), 1),
    "one key head, llama3 rope": (Shape(kv_heads=1, rope=LLAMA3), 1),
    "sharded, linear rope": (
        Shape(rope={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        3,
    ),
}
PROMPT = "the same request gives the same tokens — それだけ 🦊"


class Pair(NamedTuple):
    ours: Model
    theirs: Any
    prompt: tuple[int, ...]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    shape, shards = VARIANTS[request.param]
    directory: Path = tmp_path_factory.mktemp("model")
    tiny_llama(directory, seed=11, shape=shape, shards=shards)
    *_, ours = load_model(directory)
    assert isinstance(ours, Model)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompt = tuple(AutoTokenizer.from_pretrained(directory)(PROMPT)["input_ids"])
    return Pair(ours, theirs, prompt)


def test_the_prompt_has_the_same_tokens(pair: Pair) -> None:
    assert pair.ours.tokenizer.encode(PROMPT) == pair.prompt


def theirs_greedy(pair: Pair) -> list[int]:
    prompt_T = torch.tensor([pair.prompt])
    generated = pair.theirs.generate(prompt_T, do_sample=False, max_new_tokens=64)
    tokens: list[int] = generated[0, len(pair.prompt) :].tolist()
    return tokens


def ours_greedy(pair: Pair, drive: Callable[..., Any], stop_tokens: frozenset[int]) -> list[int]:
    limits = Limits(max_tokens=64, stop_tokens=stop_tokens)
    request = Request(prompt=pair.prompt, sampling=Sampling(temperature=0), limits=limits)
    [reader] = drive(other=pair.ours, step_tokens=16, max_sequences=1).run(request)
    tokens: list[int] = reader.ids()
    return tokens


def test_64_greedy_tokens(
    pair: Pair, drive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.theirs.generation_config, "eos_token_id", None)
    tokens = ours_greedy(pair, drive, frozenset())
    assert tokens == theirs_greedy(pair)
    assert len(tokens) == 64
    assert len(set(tokens)) > 16  # a model that repeats itself would prove little


def test_the_answer_ends_where_theirs_ends(pair: Pair, drive: Callable[..., Any]) -> None:
    assert ours_greedy(pair, drive, pair.ours.eos_token_ids) == theirs_greedy(pair)
