"""A model whose keys and values say which prefix they belong to, so that a wrong page shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32

import pytest
import torch

from lite_llm.kernels import LayerPages, store
from lite_llm.kvcache import CachedSequence, KvCache, KvLayout, LayerKv


class Toy:
    """Layouts to try, and computing with them."""

    dense = KvLayout((LayerKv(kv_heads=2, key_dim=4, value_dim=4),) * 2, torch.float32)
    mixed = KvLayout(
        (
            LayerKv(kv_heads=1, key_dim=4, value_dim=2, window=6),
            LayerKv(kv_heads=2, key_dim=4, value_dim=3),
            LayerKv(kv_heads=1, key_dim=4, value_dim=4, window=6),
            LayerKv(kv_heads=1, key_dim=6, value_dim=4, shared=True),
        ),
        torch.float32,
    )
    sliding = KvLayout((LayerKv(kv_heads=1, key_dim=2, value_dim=2, window=5),), torch.float32)
    layouts = (dense, mixed, sliding)

    @staticmethod
    def prints(tokens: Sequence[int]) -> list[float]:
        """Of each token, what its prefix must be remembered as."""
        chain = accumulate(tokens, lambda h, t: crc32(f"{h},{t}".encode()) & 0xFFFFF, initial=7)
        return [float(h) for h in chain][1:]

    @classmethod
    def compute(
        cls, cache: KvCache, parts: Sequence[tuple[CachedSequence, list[int], int]]
    ) -> None:
        """For each sequence, all its tokens and how many to compute next, as a model would: write,
        then read all that each row sees, then commit."""
        layers = cache.batch([(sequence, count) for sequence, _, count in parts])
        prints = [cls.prints(tokens) for _, tokens, _ in parts]
        for pages, layer in zip(layers, cache.layout.layers, strict=True):
            at = list(
                zip(pages.rows.sequence_T.tolist(), pages.rows.position_T.tolist(), strict=True)
            )
            told_T = torch.tensor([prints[s][p] for s, p in at], device=cache.device)
            keys_TGC = told_T[:, None, None].expand(-1, layer.kv_heads, layer.key_dim)
            values_TGE = -told_T[:, None, None].expand(-1, layer.kv_heads, layer.value_dim)
            store(pages, keys_TGC, None if layer.shared else values_TGE)
            for sequence, position in at:
                begin = 0 if layer.window is None else max(0, position + 1 - layer.window)
                expected = prints[sequence][begin : position + 1]
                assert cls.read(pages, sequence, begin, position + 1, layer.shared) == expected
        for sequence, tokens, count in parts:
            begin = sequence.num_computed
            sequence.commit(tokens[begin : begin + count])

    @staticmethod
    def read(pages: LayerPages, sequence: int, begin: int, end: int, shared: bool) -> list[float]:
        """What is remembered of these positions; every element of a token must agree."""
        at_L, kv = torch.arange(begin, end, device=pages.kv.keys_PGBC.device), pages.kv
        page_L = pages.rows.pages_SN[sequence, at_L // kv.page_tokens].long()
        keys_LX = kv.keys_PGBC[page_L, :, at_L % kv.page_tokens].flatten(1)
        values_LX = kv.values_PGBE[page_L, :, at_L % kv.page_tokens].flatten(1)
        both_LX = torch.cat((keys_LX, values_LX if shared else -values_LX), dim=1)
        assert bool((both_LX == both_LX[:, :1]).all())
        found: list[float] = both_LX[:, 0].tolist()
        return found

    @classmethod
    def prefill(cls, cache: KvCache, tokens: list[int], *, salt: bytes = b"") -> CachedSequence:
        """A sequence with all of ``tokens`` computed."""
        sequence = cache.sequence(tokens, salt=salt)
        rest = len(tokens) - sequence.num_computed
        assert sequence.reserve(rest)
        cls.compute(cache, [(sequence, tokens, rest)])
        return sequence


@pytest.fixture(scope="session")
def toy() -> type[Toy]:
    return Toy
