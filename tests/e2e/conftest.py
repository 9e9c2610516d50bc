"""A tiny model, and what it should answer according to transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.guard import Guard


@pytest.fixture
def guard() -> Iterator[Guard]:
    """Owns the processes of a test."""
    with Guard("lite-llm-e2e") as guard:
        yield guard


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In Hugging Face's layout, with random weights."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", seed=7)


@pytest.fixture(scope="session")
def expected(checkpoint: Path) -> Callable[[str, int], tuple[str, list[int]]]:
    """Greedy text and tokens after a prompt, by transformers."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)

    def generate(prompt: str, max_tokens: int) -> tuple[str, list[int]]:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            do_sample=False, max_new_tokens=max_tokens,
        )  # fmt: skip
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        return tokenizer.decode(tokens, skip_special_tokens=True), tokens

    return generate
