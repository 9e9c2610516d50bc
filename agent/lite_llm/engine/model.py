"""A checkpoint brought to where it can answer: weights, tokenizer, and what ends an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lite_llm.checkpoint import Reader, open_checkpoint
from lite_llm.contracts import TierSet
from lite_llm.contracts.errors import Corrupt, ModelNotFound
from lite_llm.contracts.manifest import Manifest
from lite_llm.engine.chat import CONFIG, TEMPLATE, ChatTemplate
from lite_llm.engine.declared import as_declared
from lite_llm.engine.defaults import GENERATION, Defaults
from lite_llm.engine.tokens import Tokenizer
from lite_llm.experts import ExpertCache, ExpertSettings
from lite_llm.models import (
    Decoder,
    Inventory,
    Progress,
    arriving_decoder,
    load_decoder,
    open_expert_cache,
    parse_config,
    parse_json,
    take_inventory,
)
from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Load,
    Loader,
    LocalSource,
    RecordReader,
    open_device_tier,
    plan_load,
)

TOKENIZER = "tokenizer.json"
READERS = 4  # threads: enough that a disk is busy while others verify
STAGING_BYTES = 256 << 20
"""Of locked host memory that weights pass through on their way to a device."""
_PAGE = 4096
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Model:
    """Everything that a generation needs and none changes."""

    decoder: Decoder
    tokenizer: Tokenizer
    defaults: Defaults
    template: ChatTemplate | None
    manifest: Manifest
    """Of what was read: its tiers, and which expert is which router's row."""
    experts: ExpertCache | None = None
    """Where they come from, unless all are in memory."""
    device: torch.device = _CPU
    """That weights lie on."""

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


@dataclass(frozen=True)
class _Files:
    """The small files, and what they say of the weights. They are read first: they fail fastest."""

    inventory: Inventory
    tokenizer: Tokenizer
    defaults: Defaults
    template: ChatTemplate | None

    @classmethod
    def read(cls, reader: Reader) -> _Files:
        directory, architecture = reader.directory, reader.manifest.architecture
        config = parse_config(architecture)
        tokenizer = Tokenizer.parse(_needed(reader, TOKENIZER), str(directory / TOKENIZER))
        defaults = Defaults()
        if GENERATION in reader.manifest.extras:
            where = str(directory / GENERATION)
            defaults = Defaults.parse(reader.extra(GENERATION), where, vocab=config.vocab_size)
        inventory = take_inventory(reader.manifest, config)
        return cls(inventory, tokenizer, defaults, _template(reader))

    def declared(self, tier_set: TierSet) -> _Files:
        config = as_declared(self.inventory.config, self.inventory.manifest, tier_set)
        return replace(self, inventory=replace(self.inventory, config=config))

    def model(
        self, decoder: Decoder, experts: ExpertCache | None = None, device: torch.device = _CPU
    ) -> Model:
        return Model(
            decoder=decoder,
            tokenizer=self.tokenizer,
            defaults=self.defaults,
            template=self.template,
            manifest=self.inventory.manifest,
            experts=experts,
            device=device,
        )


@asynccontextmanager
async def arriving_model(
    directory: Path,
    experts: ExpertSettings | None = None,
    *,
    notes: Path | None = None,
    device: torch.device = _CPU,
    tier_set: TierSet | None = None,
) -> AsyncIterator[tuple[Model, Load]]:
    """A model that may run at once: each layer waits for its weights, which ``load`` brings.

    With ``experts``, these come as routers ask for them, within the budgets that are set there; a
    model without any needs none. ``notes`` is where loads note down what they verified (see
    :class:`Loader`). On a CUDA ``device`` weights lie in its memory, and pass through a little of
    the host's on their way. Routers do as ``tier_set`` declares (:func:`as_declared`). No step may
    be running when the block ends.
    """
    files = await asyncio.to_thread(_read_files, directory)
    if tier_set is not None:
        files = files.declared(tier_set)
    manifest = files.inventory.manifest
    are_tiered = experts is not None and bool(manifest.experts)
    plan = plan_load(manifest, wants_expert=lambda _: not are_tiered)
    num_bytes = sum(-(-run.num_bytes // _PAGE) * _PAGE for run in plan.runs)
    async with AsyncExitStack() as held:
        nearest = None
        if device.type == "cuda":
            nearest = open_device_tier(num_bytes)
            held.callback(nearest.close)
            memory = HostMemory(min(num_bytes, STAGING_BYTES))
        else:
            # Not locked: pages that nothing is read into, since the page cache has it, cost
            # nothing.
            memory = HostMemory(num_bytes, lock=False)
        arena = Arena("weights", memory)
        held.callback(arena.close)
        host = HostTier(arena)
        held.callback(host.clear)
        disk = DiskReader(threads=READERS)
        held.callback(disk.close)
        source = LocalSource(directory)
        loader = Loader(host, disk, device=nearest, notes=notes)
        loading = loader.load(manifest, [source], wants_expert=lambda _: not are_tiered)
        load = await held.enter_async_context(loading)
        cache = None
        if experts is not None and are_tiered:
            loop = asyncio.get_running_loop()
            records = RecordReader(
                manifest, [source], reader=disk, patience=experts.patience, loop=loop
            )
            held.callback(records.close)
            cache = open_expert_cache(files.inventory, records, experts, device)
            # In a thread: those that fetch may be waiting for this loop.
            held.push_async_callback(asyncio.to_thread, cache.close)
        decoder = await held.enter_async_context(arriving_decoder(load, files.inventory, cache))
        yield files.model(decoder, cache, device), load


def load_model(directory: Path) -> Iterator[Progress | Model]:
    """All at once, for tools and tests: progress, then the model."""
    with _opened(directory) as reader:
        files = _Files.read(reader)
        for step in load_decoder(reader, files.inventory.config):
            yield files.model(step) if isinstance(step, Decoder) else step


def _read_files(directory: Path) -> _Files:
    with _opened(directory) as reader:
        return _Files.read(reader)


def _opened(directory: Path) -> Reader:
    if not directory.is_dir():
        raise ModelNotFound(
            f"there is no directory {directory}",
            where=str(directory),
            remedy="mount it, or correct the model's source",
        )
    return open_checkpoint(directory)


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
