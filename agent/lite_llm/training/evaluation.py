"""How well a checkpoint predicts text, by the code that serves it.

Legend: N tokens of the text, L of one window, E experts, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from lite_llm.checkpoint import open_checkpoint
from lite_llm.experts import TierMasks
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.models import Decoder, load_decoder, parse_config
from lite_llm.training.corpus import SourceFile
from lite_llm.training.vocabulary import tokens_of


class Evaluator:
    """A checkpoint in memory, as an engine holds it."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises what :func:`load_decoder` does."""
        with open_checkpoint(checkpoint) as reader:
            self.tiers = reader.manifest.tiers
            *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
            assert isinstance(decoder, Decoder)
            self._decoder = decoder
            layers = len(decoder.config.layers)
            self._masks = TierMasks(reader.manifest.experts, layers)
            self.tokenizer = Tokenizer.from_str(reader.extra("tokenizer.json").decode())

    def logits(self, tokens_L: Tensor, tiers: Collection[int] | None = None) -> Tensor:
        """Of the token after each, under the tiers with these ids: ``[L, V]``."""
        length = len(tokens_L)
        position_L = torch.arange(length)
        rows = Rows(
            torch.zeros(length, dtype=torch.int32), position_L.int(), torch.zeros(1, 1).int()
        )
        pages = []
        for layer in self._decoder.kv_layout.layers:
            shape, dtype = (1, layer.kv_heads, length, layer.key_dim), self._decoder.config.dtype
            kv = PagedKv(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
            pages.append(LayerPages(kv, rows))
        masks = self._masks.of([tiers] * length)
        hidden_LD = self._decoder.hidden(tokens_L, position_L, pages, expert_masks=masks)
        return self._decoder.logits(hidden_LD)

    def bits_per_byte(
        self, files: Iterable[SourceFile], tiers: Collection[int] | None = None
    ) -> float:
        """Of the files one behind the other, in windows of the model's context.

        A window's first token is given, and counts for nothing; all others are predicted from what
        lies before them in the window.
        """
        listed = list(files)
        tokens_N = tokens_of(listed, self.tokenizer)
        length = self._decoder.config.context_tokens
        nats, predicted = 0.0, 0
        for begin in range(0, len(tokens_N) - 1, length):
            window_L = tokens_N[begin : begin + length + 1]
            logits_LV = self.logits(window_L[:-1], tiers)
            nats += functional.cross_entropy(logits_LV, window_L[1:], reduction="sum").item()
            predicted += len(window_L) - 1
        num_bytes = sum(len(file.data) for file in listed)
        bytes_per_token = num_bytes / len(tokens_N)
        return nats / math.log(2) / (predicted * bytes_per_token)

    def complete(self, text: str, *, max_tokens: int, tiers: Collection[int] | None = None) -> str:
        """``text`` and what follows it greedily, within the model's context."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        end = self._decoder.config.eos_token_ids
        room = self._decoder.config.context_tokens - len(ids)
        for _ in range(min(max_tokens, room)):
            token = int(self.logits(torch.tensor(ids), tiers)[-1].argmax())
            if token in end:
                break
            ids.append(token)
        return str(self.tokenizer.decode(ids))
