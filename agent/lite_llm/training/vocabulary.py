"""Byte-level BPE, trained on the corpus itself; and the corpus as one row of tokens.

Legend: N tokens of a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from lite_llm.training.corpus import SourceFile

END_OF_FILE: Final = "<|endoffile|>"
END_OF_FILE_ID: Final = 0
_PIECES: Final = (
    # A line break with the indentation behind it is one piece, so that a block costs one token.
    r"\n+ *|[A-Za-z_]+| ?[A-Za-z_]+|\d| ?[^\sA-Za-z_\d]+| +(?= )| +|\s+"
)


def trained_tokenizer(files: Iterable[SourceFile], size: int) -> Tokenizer:
    """At most ``size`` tokens; any bytes that are UTF-8 can be spelt. Equal files, equal tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(_PIECES), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(END_OF_FILE, special=True, normalized=False)],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.data.decode() for file in files), trainer)
    return tokenizer


def tokens_of(files: Iterable[SourceFile], tokenizer: Tokenizer) -> Tensor:
    """All files in their order, each behind an end-of-file token: ``[N]``, int64."""
    ids: list[int] = []
    for file in files:
        ids.append(END_OF_FILE_ID)
        ids.extend(tokenizer.encode(file.data.decode(), add_special_tokens=False).ids)
    return torch.tensor(ids, dtype=torch.int64)


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """``tokenizer.json`` and what goes with it, as Hugging Face lays them out."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_FILE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, sort_keys=True) + "\n")
    generation = {"eos_token_id": END_OF_FILE_ID}
    (directory / "generation_config.json").write_text(json.dumps(generation) + "\n")
