"""A checkpoint brought to where it can answer: weights, tokenizer, and what ends an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lite_llm.engine.tokens import Tokenizer
from lite_llm.models import Llama, Progress, load_llama, read_config, read_json, token_ids


@dataclass(frozen=True)
class Model:
    """Everything that a generation needs and none changes."""

    llama: Llama
    tokenizer: Tokenizer
    eos_token_ids: frozenset[int]

    @property
    def context_tokens(self) -> int:
        """That a sequence can hold, prompt and answer together."""
        return self.llama.config.context_tokens

    @property
    def vocab_size(self) -> int:
        """Token ids are smaller."""
        return self.llama.config.vocab_size

    def warm_up(self) -> None:
        """Run one token, so that no request pays for what torch sets up at first use."""
        hidden_TD = self.llama.hidden(torch.tensor([0]), self.llama.new_cache())
        self.llama.logits(hidden_TD)


def load_model(directory: Path) -> Iterator[Progress | Model]:
    """Read the checkpoint in ``directory``: progress, then the model.

    The small files come first, for they fail fastest.
    """
    config = read_config(directory)
    tokenizer = Tokenizer.read(directory)
    eos_token_ids = config.eos_token_ids
    generation = directory / "generation_config.json"
    if generation.exists():
        # Chat models name the end of a turn there and nowhere else.
        named = read_json(generation).get("eos_token_id")
        eos_token_ids = token_ids(named, vocab=config.vocab_size) or eos_token_ids
    for step in load_llama(directory, config):
        yield Model(step, tokenizer, eos_token_ids) if isinstance(step, Llama) else step
