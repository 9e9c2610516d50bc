"""A small mixture whose experts come as they are asked for, beside the same one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from lite_llm.checkpoint import open_checkpoint
from lite_llm.experts import ExpertCache, ExpertSettings
from lite_llm.models import (
    Decoder,
    load_decoder,
    open_expert_cache,
    parse_config,
    take_inventory,
)
from lite_llm.tiers import DiskReader, DiskTier, LocalSource, RecordReader

EXPERTS, LAYERS, TOP_K = 12, 3, 3
SLOT = 8192
SEQUENCES = [list(range(3, 30)), [9, 9, 9, 4, 60], [*range(40, 60), 1, 2], [7]]
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 20,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "num_experts_per_tok": TOP_K,
}
Run = Callable[..., list[Tensor]]
Save = Callable[..., tuple[Path, Any]]


def resident(directory: Path) -> Decoder:
    with open_checkpoint(directory) as reader:
        *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
    assert isinstance(decoder, Decoder)
    return decoder


@contextmanager
def tiered(
    directory: Path,
    sources: Sequence[Any] = (),
    loop: Any = None,
    disks: DiskTier | None = None,
    **changes: Any,
) -> Iterator[tuple[Decoder, ExpertCache]]:
    sizes: dict[str, Any] = {"hot_bytes": 16 * SLOT, "warm_bytes": 64 * SLOT, "apart": True}
    settings = ExpertSettings(**{**sizes, **changes})
    with open_checkpoint(directory) as reader:
        config = parse_config(reader.manifest.architecture)
        inventory = take_inventory(reader.manifest, config)
        disk = DiskReader(threads=1)
        records = RecordReader(
            inventory.manifest,
            sources or [LocalSource(directory)],
            reader=disk,
            patience=settings.patience,
            loop=loop,
            disks=disks,
        )
        cache = open_expert_cache(inventory, records, settings)
        *_, decoder = load_decoder(reader, config, cache)
        assert isinstance(decoder, Decoder)
        try:
            yield decoder, cache
        finally:
            decoder.drop()
            cache.close()
            records.close()
            disk.close()


class Distant:
    """A store that has a directory's files."""

    uri = "test://store"

    async def identity(self, name: str) -> str:
        return name

    def __init__(self, directory: Path, *, is_away: bool = False) -> None:
        self.directory = directory
        self.is_away = is_away
        self.num_reads = 0

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        self.num_reads += 1
        if self.is_away:
            await asyncio.Event().wait()
        with (self.directory / name).open("rb") as file:
            file.seek(offset)
            file.readinto(target)
