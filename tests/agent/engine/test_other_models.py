"""What holds for a Llama in float32 holds for windows, bfloat16 and experts: the same bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lite_llm.engine import Model, Request, load_model
from lite_llm.testing.checkpoints import tiny_llama, write_tokenizer


def windows(directory: Path) -> None:
    change(
        tiny_llama(directory, seed=7),
        architectures=["MistralForCausalLM"],
        model_type="mistral",
        sliding_window=24,
        mlp_bias=None,
        attention_bias=None,
    )


def bfloat16(directory: Path) -> None:
    change(tiny_llama(directory, seed=7), dtype="bfloat16")


def experts(directory: Path) -> None:
    config = transformers.MixtralConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=6,
        max_position_embeddings=512,
        sliding_window=None,
        initializer_range=0.2,
    )
    torch.manual_seed(3)
    transformers.MixtralForCausalLM(config).save_pretrained(directory)
    write_tokenizer(directory, vocab=320)


def change(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module", params=[windows, bfloat16, experts])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = tmp_path_factory.mktemp("model")
    request.param(directory)
    *_, model = load_model(directory)
    assert isinstance(model, Model)
    return model


def test_the_same_bytes_whatever_goes_on(
    drive: Callable[..., Any], ask: Callable[..., Request], other: Model
) -> None:
    prompt = list(range(2, 72))
    requests = [
        ask(prompt=prompt, max_tokens=40, logprobs=2),
        ask(prompt=[*prompt[:50], 9], max_tokens=30, temperature=0, logprobs=2, n=2),
        ask("the same", max_tokens=60, top_p=0.9, logprobs=2),
    ]

    def said(reader: Any) -> Any:
        return [reader.tokens(index) for index in range(2)], len(reader.ends)

    alone = [said(drive(other=other).run(request)[0]) for request in requests]
    assert len({token.id for token in alone[0][0][0]}) > 10
    driver = drive(other=other)
    for settings in (requests, requests[::-1]):  # the second time prefixes are found
        told = [said(reader) for reader in driver.run(*settings)]
        assert told == [alone[requests.index(request)] for request in settings]
    cut = drive(other=other, step_tokens=11, max_sequences=5, prompt_tokens=3)
    assert [said(reader) for reader in cut.run(*requests)] == alone
    for host_pages in (0, 64):
        tight = drive(other=other, pages=9, host_pages=host_pages)
        for _ in range(20):
            tight.steps._lineup._lengths.observe(1, 100)
        assert [said(reader) for reader in tight.run(*requests)] == alone
