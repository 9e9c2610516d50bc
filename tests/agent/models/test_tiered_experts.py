"""Experts that come as they are asked for: the bits of a model that has them all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from lite_llm.checkpoint import convert, open_checkpoint
from lite_llm.experts import ExpertCache, ExpertSettings
from lite_llm.models import (
    Decoder,
    load_decoder,
    open_expert_cache,
    parse_config,
    take_inventory,
)
from lite_llm.tiers import DiskReader, LocalSource, RecordReader

EXPERTS, LAYERS, TOP_K = 12, 3, 3
SLOT = 8192
SEQUENCES = [list(range(3, 30)), [9, 9, 9, 4, 60], [*range(40, 60), 1, 2], [7]]
Save = Callable[..., tuple[Path, Any]]


@pytest.fixture
def checkpoint(save_model: Save, tmp_path: Path) -> Path:
    config = AutoConfig.for_model(
        "qwen3_moe",
        vocab_size=128,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        dtype="bfloat16",
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        moe_intermediate_size=20,
        norm_topk_prob=True,
    )
    directory, _ = save_model(config)
    *_, _ = convert(directory, tmp_path / "converted")
    return tmp_path / "converted"


def resident(directory: Path) -> Decoder:
    with open_checkpoint(directory) as reader:
        *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
    assert isinstance(decoder, Decoder)
    return decoder


@contextmanager
def tiered(directory: Path, **changes: Any) -> Iterator[tuple[Decoder, ExpertCache]]:
    settings = ExpertSettings(**{"hot_bytes": 16 * SLOT, "warm_bytes": 64 * SLOT, **changes})
    with open_checkpoint(directory) as reader:
        config = parse_config(reader.manifest.architecture)
        inventory = take_inventory(reader.manifest, config)
        disk = DiskReader(threads=1)
        records = RecordReader(inventory.manifest, [LocalSource(directory)], reader=disk)
        cache = open_expert_cache(inventory, records, settings)
        *_, decoder = load_decoder(reader, config, cache)
        assert isinstance(decoder, Decoder)
        try:
            yield decoder, cache
        finally:
            decoder.weights.drop()
            cache.close()
            records.close()
            disk.close()


def test_any_pool_gives_the_same_bits(checkpoint: Path, run: Callable[..., list[Tensor]]) -> None:
    expected = run(resident(checkpoint), SEQUENCES, [5, 1, 3])
    for slots in (3, 5, 9, 18, 40):
        with tiered(checkpoint, hot_bytes=slots * SLOT) as (decoder, cache):
            for _ in range(2):
                found = run(decoder, SEQUENCES, [5, 1, 3])
                assert all(map(torch.equal, found, expected)), slots
            assert cache.arena.used_bytes <= slots * SLOT
            assert cache.fetcher.tally.fetched
