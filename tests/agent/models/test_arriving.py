"""A decoder runs while its weights arrive, over the loaded bytes themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lite_llm.checkpoint import convert, open_checkpoint
from lite_llm.contracts.errors import Cancelled, LiteLLMError
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.models import Decoder, arriving_decoder, load_decoder, parse_config, take_inventory
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Layer,
    Load,
    Loader,
    LocalSource,
)

TOKENS = torch.tensor([3, 1, 4, 1, 5])


def run(decoder: Decoder) -> torch.Tensor:
    positions = torch.arange(len(TOKENS))
    zeros = torch.zeros(len(TOKENS), dtype=torch.int32)
    rows = Rows(zeros, positions.int(), torch.zeros(1, 1).int())
    pages = []
    for layer in decoder.kv_layout.layers:
        room = torch.zeros(2, 1, layer.kv_heads, 8, layer.key_dim, dtype=decoder.config.dtype)
        pages.append(LayerPages(PagedKv(room[0], room[1]), rows))
    return decoder.logits(decoder.hidden(TOKENS, positions, pages))


def expected(directory: Path) -> torch.Tensor:
    with open_checkpoint(directory) as reader:
        *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
    assert isinstance(decoder, Decoder)
    return run(decoder)


@pytest.fixture
def host() -> Iterator[HostTier]:
    tier = HostTier(Arena("dram", HostMemory(8 << 20, lock=False)))
    yield tier
    tier.check()
    tier.clear()
    assert tier.arena.used_bytes == 0, "a load left something behind"
    tier.arena.close()


@pytest.fixture
def loader(host: HostTier) -> Iterator[Loader]:
    reader = DiskReader(threads=2)
    yield Loader(host, reader)
    reader.close()


@asynccontextmanager
async def opened(directory: Path, loader: Loader) -> AsyncIterator[tuple[Load, Decoder]]:
    with open_checkpoint(directory) as reader:
        manifest = reader.manifest
    inventory = take_inventory(manifest, parse_config(manifest.architecture))
    source = [LocalSource(directory)]
    async with (
        loader.load(inventory.manifest, source) as load,
        arriving_decoder(load, inventory) as decoder,
    ):
        yield load, decoder


@pytest.mark.parametrize("tied", [False, True])
async def test_it_is_the_same_model(tmp_path: Path, loader: Loader, tied: bool) -> None:
    directory = tiny_llama(tmp_path, seed=1, shape=Shape(tied=tied), shards=3)
    async with opened(directory, loader) as (_, decoder):
        assert torch.equal(await asyncio.to_thread(run, decoder), expected(directory))


@pytest.mark.parametrize("converted", [False, True])
async def test_experts_arrive_with_their_layers(
    tmp_path: Path,
    loader: Loader,
    save_model: Callable[..., tuple[Path, Any]],
    converted: bool,
) -> None:
    from transformers import MixtralConfig

    no_tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
        **no_tokens,
    )
    directory, _ = await asyncio.to_thread(save_model, config)
    if converted:
        target = tmp_path / "converted"
        await asyncio.to_thread(lambda: [*convert(directory, target)])
        assert torch.equal(expected(target), expected(directory))
        directory = target
    async with opened(directory, loader) as (_, decoder):
        assert torch.equal(await asyncio.to_thread(run, decoder), expected(directory))


async def test_weights_are_the_loaded_bytes_themselves(tmp_path: Path, loader: Loader) -> None:
    directory = tiny_llama(tmp_path, seed=1)
    async with opened(directory, loader) as (load, decoder):
        await asyncio.to_thread(run, decoder)
        stored = (await load.head()).tensors["lm_head.weight"]
        head_VD = decoder.weights.head().output_VD
        assert head_VD.data_ptr() == np.frombuffer(stored, np.uint8).ctypes.data
        del head_VD


async def test_what_must_be_converted_is_copied(tmp_path: Path, loader: Loader) -> None:
    directory = tiny_llama(tmp_path, seed=1)
    config = (directory / "config.json").read_text().replace("float32", "bfloat16")
    (directory / "config.json").write_text(config)
    async with opened(directory, loader) as (_, decoder):
        logits = await asyncio.to_thread(run, decoder)
        assert decoder.weights.embedding().dtype is torch.bfloat16
    assert torch.equal(logits, expected(directory))


async def test_early_layers_run_while_later_ones_load(
    tmp_path: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_llama(tmp_path, seed=1)
    held, deliver = asyncio.Event(), Load.layer

    async def late(self: Load, index: int) -> Layer:
        if index == 2:
            await held.wait()
        return await deliver(self, index)

    monkeypatch.setattr(Load, "layer", late)
    async with opened(directory, loader) as (_, decoder):
        step = asyncio.create_task(asyncio.to_thread(run, decoder))
        await asyncio.to_thread(decoder.weights.get, 1)
        assert not step.done()
        held.set()
        assert torch.equal(await step, expected(directory))


async def test_what_stops_the_load_stops_the_step(
    tmp_path: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_llama(tmp_path, seed=1)
    deliver = Load.layer

    async def broken(self: Load, index: int) -> Layer:
        if index == 2:
            raise LiteLLMError("the disk is gone")
        return await deliver(self, index)

    monkeypatch.setattr(Load, "layer", broken)
    async with opened(directory, loader) as (_, decoder):
        with pytest.raises(LiteLLMError, match="the disk is gone"):
            await asyncio.to_thread(run, decoder)


async def test_a_step_that_waits_can_be_freed_before_the_rest_arrives(
    tmp_path: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_llama(tmp_path, seed=1)
    deliver = Load.layer

    async def never(self: Load, index: int) -> Layer:
        if index == 2:
            await asyncio.Event().wait()
        return await deliver(self, index)

    monkeypatch.setattr(Load, "layer", never)
    async with opened(directory, loader) as (_, decoder):
        step = asyncio.create_task(asyncio.to_thread(run, decoder))
        await asyncio.to_thread(decoder.weights.get, 1)
        decoder.weights.fail(Cancelled("the model is not wanted any more"))
        with pytest.raises(Cancelled, match="not wanted"):
            await step
    with pytest.raises(Cancelled, match="unloaded"):
        run(decoder)
