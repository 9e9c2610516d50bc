"""How well a checkpoint predicts text, by the code that serves it.

Legend: N tokens of the text, B windows, L tokens of one, T = B * L rows, V vocabulary.
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

_BATCH = 16  # windows a step


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

    def logits(self, tokens_BL: Tensor, tiers: Collection[int] | None = None) -> Tensor:
        """Of the token after each, under the tiers with these ids: ``[B, L, V]``."""
        batch, length = tokens_BL.shape
        sequence_T = torch.arange(batch, dtype=torch.int32).repeat_interleave(length)
        position_T = torch.arange(length).repeat(batch)
        # A page for each sequence, as long as it is.
        rows = Rows(sequence_T, position_T.int(), torch.arange(batch, dtype=torch.int32)[:, None])
        pages = []
        for layer in self._decoder.kv_layout.layers:
            shape, dtype = (
                (batch, layer.kv_heads, length, layer.key_dim),
                self._decoder.config.dtype,
            )
            kv = PagedKv(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
            pages.append(LayerPages(kv, rows))
        masks = self._masks.of([tiers] * len(position_T))
        hidden_TD = self._decoder.hidden(tokens_BL.flatten(), position_T, pages, expert_masks=masks)
        return self._decoder.logits(hidden_TD).view(batch, length, -1)

    def bits_per_byte(
        self, files: Iterable[SourceFile], tiers: Collection[int] | None = None
    ) -> float:
        """Of the files one behind the other, in windows of the model's context.

        A window's first token is given, and counts for nothing; all others are predicted from what
        lies before them in the window. Tokens that fill no window at the end are left out.
        """
        listed = list(files)
        tokens_N = tokens_of(listed, self.tokenizer)
        length = min(self._decoder.config.context_tokens, len(tokens_N) - 1)
        nats, predicted = 0.0, 0
        windows = tokens_N.unfold(0, length + 1, length)
        for windows_BL in torch.split(windows, _BATCH):
            logits_BLV = self.logits(windows_BL[:, :-1], tiers)
            targets_T = windows_BL[:, 1:].flatten()
            nats += functional.cross_entropy(
                logits_BLV.flatten(0, 1), targets_T, reduction="sum"
            ).item()
            predicted += len(targets_T)
        num_bytes = sum(len(file.data) for file in listed)
        bytes_per_token = num_bytes / len(tokens_N)
        return nats / math.log(2) / (predicted * bytes_per_token)

    def complete(self, text: str, *, max_tokens: int, tiers: Collection[int] | None = None) -> str:
        """``text`` and what follows it greedily, within the model's context."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        end = self._decoder.config.eos_token_ids
        room = self._decoder.config.context_tokens - len(ids)
        for _ in range(min(max_tokens, room)):
            token = int(self.logits(torch.tensor([ids]), tiers)[0, -1].argmax())
            if token in end:
                break
            ids.append(token)
        return str(self.tokenizer.decode(ids))
