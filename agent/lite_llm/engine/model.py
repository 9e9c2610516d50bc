"""A checkpoint brought to where it can answer: weights, tokenizer, and what ends an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lite_llm.checkpoint import Reader, open_checkpoint
from lite_llm.contracts.errors import Corrupt, ModelNotFound
from lite_llm.engine.chat import CONFIG, TEMPLATE, ChatTemplate
from lite_llm.engine.defaults import GENERATION, Defaults
from lite_llm.engine.tokens import Tokenizer
from lite_llm.models import Decoder, Progress, load_decoder, parse_config, parse_json

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Model:
    """Everything that a generation needs and none changes."""

    decoder: Decoder
    tokenizer: Tokenizer
    defaults: Defaults
    template: ChatTemplate | None

    @property
    def context_tokens(self) -> int:
        """That a sequence can hold, prompt and answer together."""
        return self.decoder.config.context_tokens

    @property
    def vocab_size(self) -> int:
        """Token ids are smaller."""
        return self.decoder.config.vocab_size

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Each ends an answer. Chat models name the end of a turn beside their defaults only."""
        return self.defaults.eos_token_ids or self.decoder.config.eos_token_ids


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
        config = parse_config(reader.manifest.architecture)
        tokenizer = Tokenizer.parse(_needed(reader, TOKENIZER), str(directory / TOKENIZER))
        defaults = Defaults()
        if GENERATION in reader.manifest.extras:
            where = str(directory / GENERATION)
            defaults = Defaults.parse(reader.extra(GENERATION), where, vocab=config.vocab_size)
        template = _template(reader)
        for step in load_decoder(reader, config):
            if isinstance(step, Decoder):
                yield Model(step, tokenizer, defaults, template)
            else:
                yield step


def _template(reader: Reader) -> ChatTemplate | None:
    extras, directory = reader.manifest.extras, reader.directory
    config = parse_json(reader.extra(CONFIG), str(directory / CONFIG)) if CONFIG in extras else {}
    file = reader.extra(TEMPLATE).decode(errors="replace") if TEMPLATE in extras else None
    return ChatTemplate.parse(config, file)


def _needed(reader: Reader, name: str) -> bytes:
    if name not in reader.manifest.extras:
        path = reader.directory / name
        raise Corrupt(
            f"there is no {path}", where=str(path), remedy="fetch the checkpoint again, with it"
        )
    return reader.extra(name)
