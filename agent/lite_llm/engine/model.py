"""A checkpoint brought to where it can answer: weights, tokenizer, and what ends an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lite_llm.checkpoint import Reader, open_checkpoint
from lite_llm.contracts.errors import Corrupt, ModelNotFound
from lite_llm.engine.tokens import Tokenizer
from lite_llm.models import Llama, LlamaConfig, Progress, load_llama, parse_json, token_ids

TOKENIZER, GENERATION = "tokenizer.json", "generation_config.json"


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
    """Read the checkpoint in ``directory``, ours or Hugging Face's: progress, then the model.

    The small files come first, for they fail fastest.
    """
    if not directory.is_dir():
        raise ModelNotFound(
            f"there is no directory {directory}",
            where=str(directory),
            remedy="mount it, or correct the model's source",
        )
    with open_checkpoint(directory) as reader:
        config = LlamaConfig.parse(reader.manifest.architecture)
        tokenizer = Tokenizer.parse(_needed(reader, TOKENIZER), str(directory / TOKENIZER))
        eos_token_ids = config.eos_token_ids
        if GENERATION in reader.manifest.extras:
            # Chat models name the end of a turn there and nowhere else.
            fields = parse_json(reader.extra(GENERATION), str(directory / GENERATION))
            named = token_ids(fields.get("eos_token_id"), vocab=config.vocab_size)
            eos_token_ids = named or eos_token_ids
        for step in load_llama(reader, config):
            yield Model(step, tokenizer, eos_token_ids) if isinstance(step, Llama) else step


def _needed(reader: Reader, name: str) -> bytes:
    if name not in reader.manifest.extras:
        path = reader.directory / name
        raise Corrupt(
            f"there is no {path}", where=str(path), remedy="fetch the checkpoint again, with it"
        )
    return reader.extra(name)
