"""Weights from a checkpoint: as they arrive in memory, or all at once for tools and tests."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog
import torch

from lite_llm.checkpoint import Reader
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.contracts.tiers import Placement
from lite_llm.experts import Bank, ExpertCache, ExpertSettings, ResidentBank
from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.assembly import (
    assemble_embedding,
    assemble_experts,
    assemble_head,
    assemble_layer,
)
from lite_llm.models.decoder import Decoder
from lite_llm.models.inventory import Inventory, take_inventory
from lite_llm.models.moe import fetch_ahead, observe
from lite_llm.models.weights import Layer, Weights
from lite_llm.tiers import Layer as Arrived
from lite_llm.tiers import Load, RecordReader

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """Bytes of weights read, of all that will be."""

    done_bytes: int
    total_bytes: int


def open_expert_cache(
    inventory: Inventory,
    reader: RecordReader,
    settings: ExpertSettings,
    device: torch.device | None = None,
) -> ExpertCache:
    """For the experts of a model that are not all to be in memory; they run on the ``device``.

    Tiers that are placed hot stay in hot slots, if all of them fit. Raises InvalidSettings.
    """
    layers = {number: records for number, records in enumerate(inventory.experts) if records}
    place = device or torch.device("cpu")
    cache = ExpertCache(layers, inventory.config.dtype, reader, settings, place)
    hot = {tier.id for tier in inventory.manifest.tiers if tier.placement is Placement.HOT}
    if hot and not cache.hold(hot):
        log.warning(
            "hot tiers don't fit their slots: their experts come and go like others",
            model=inventory.manifest.model,
            remedy="raise hot_bytes, or place fewer tiers hot",
        )
    return cache


@asynccontextmanager
async def arriving_decoder(
    load: Load, inventory: Inventory, cache: ExpertCache | None = None
) -> AsyncIterator[Decoder]:
    """A decoder that may run at once: each layer waits for its weights and for no others.

    Weights are the loaded bytes themselves where the types agree, so the block must be left before
    the load is closed, and no step may be running by then: ``decoder.weights.fail`` ends one that
    waits. What stops the load is raised by the step that needs what is missing. The load is one of
    ``inventory.manifest``; experts come with it, or as they are asked for from ``cache``.
    """
    decoder = _decoder(inventory, cache)
    filling = asyncio.create_task(_fill(decoder, load, inventory, cache))
    try:
        yield decoder
    finally:
        filling.cancel()
        await asyncio.wait([filling])
        decoder.drop()
        gc.collect()  # what a cycle still holds would keep the load from giving its memory back


def load_decoder(
    reader: Reader, config: DecoderConfig, cache: ExpertCache | None = None
) -> Iterator[Progress | Decoder]:
    """Read a whole checkpoint into memory of its own: progress per layer, then the decoder.

    With a ``cache``, all but its experts.

    Everything is checked against the manifest before the first byte of weights is read:
    :class:`Corrupt` and :class:`Unsupported` name the tensor or the file that is not as it must
    be. Bytes that have checksums are checked as they are read.
    """
    inventory = take_inventory(reader.manifest, config)
    done, total = 0, inventory.dense_bytes if cache else inventory.num_bytes
    decoder = _decoder(inventory, cache)
    weights = decoder.weights
    yield Progress(0, total)

    views = _read(reader, inventory, "model.embed_tokens.")
    done += _num_bytes(views)
    embedding_VD = assemble_embedding(inventory, views)
    weights.put_embedding(embedding_VD)
    yield Progress(done, total)
    for number, records in enumerate(inventory.experts):
        views = _read(reader, inventory, f"model.layers.{number}.")
        done += _num_bytes(views)
        if cache is None:
            parts = {record.key: _expert_views(reader, record) for record in records}
            bank: Bank = assemble_experts(inventory, number, parts)
            done += sum(record.num_bytes for record in records)
        else:
            bank = _bank(cache, inventory, number)
        weights.put(number, _observed(assemble_layer(inventory, number, views, bank), cache))
        yield Progress(done, total)
    _connect(decoder, cache)
    views = {**_read(reader, inventory, "model.norm."), **_read(reader, inventory, "lm_head.")}
    weights.put_head(assemble_head(inventory, views, embedding_VD))
    yield Progress(total, total)
    yield decoder


def _decoder(inventory: Inventory, cache: ExpertCache | None) -> Decoder:
    rows = None if cache is None else cache.rows
    return Decoder(inventory.config, Weights(len(inventory.layers)), rows)


def _connect(decoder: Decoder, cache: ExpertCache | None) -> None:
    """Once all layers are there."""
    if cache is None:
        return
    blocks = [decoder.weights.get(number).ffn for number in range(len(decoder.config.layers))]
    if cache.settings.prefetch:
        fetch_ahead(blocks, cache)


def _observed(layer: Layer, cache: ExpertCache | None) -> Layer:
    """Before any step can run it: a trace has all layers of a step or none."""
    if cache is not None and cache.tracing is not None:
        observe([layer.ffn], cache.tracing)
    return layer


def _bank(cache: ExpertCache, inventory: Inventory, number: int) -> Bank:
    return cache.bank(number) if inventory.experts[number] else ResidentBank([])


def _assembled(
    inventory: Inventory, number: int, arrived: Arrived, cache: ExpertCache | None
) -> Layer:
    if cache is not None:
        bank = _bank(cache, inventory, number)
    else:
        bank = assemble_experts(inventory, number, arrived.experts)
    return _observed(assemble_layer(inventory, number, arrived.tensors, bank), cache)


async def _fill(
    decoder: Decoder, load: Load, inventory: Inventory, cache: ExpertCache | None
) -> None:
    weights = decoder.weights
    try:
        arrived = await load.embeddings()
        embedding_VD = await _in_thread(assemble_embedding, inventory, arrived.tensors)
        weights.put_embedding(embedding_VD)
        for number in range(len(inventory.layers)):
            arrived = await load.layer(number)
            weights.put(number, await _in_thread(_assembled, inventory, number, arrived, cache))
        _connect(decoder, cache)
        arrived = await load.head()
        weights.put_head(await _in_thread(assemble_head, inventory, arrived.tensors, embedding_VD))
    except Exception as error:  # whatever it is, it belongs to those who wait
        weights.fail(error.with_traceback(None))  # whose frames would keep tensors alive


async def _in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """Conversions take long; one that has begun is waited for, as it uses the load's memory."""
    job = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.gather(job, return_exceptions=True)
        raise


def _read(reader: Reader, inventory: Inventory, prefix: str) -> dict[str, memoryview]:
    return {
        record.name: reader.read_checked(record.span)
        for record in inventory.manifest.tensors
        if record.name.startswith(prefix)
    }


def _expert_views(reader: Reader, record: ExpertRecord) -> tuple[memoryview, ...]:
    if (span := record.span) is None:
        return tuple(reader.read_checked(part.span) for part in record.parts)
    whole, parts = reader.read_checked(span), [part.span for part in record.parts]
    return tuple(whole[part.offset - span.offset : part.end - span.offset] for part in parts)


def _num_bytes(views: Mapping[str, memoryview]) -> int:
    return sum(view.nbytes for view in views.values())
