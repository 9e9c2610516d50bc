"""Whatever fails or dies in the middle: the others go on, nothing stays, and no copy is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Corrupt, StoreUnavailable
from lite_llm.contracts.keyspace import LEADERS, IngestionKey, ModelKey, key_of
from lite_llm.metastore import MemoryStore
from lite_llm.metastore.store import Entry
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec
from lite_llm.registry import RegistrySettings, ingesting
from lite_llm.registry.conversion import convert
from lite_llm.registry.scratch import clear_scratch, scratch_of
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.hub import Hub
from lite_llm.wire import dumps, loads, ref_to_proto

REF, OTHER = ModelRef("default", "tiny"), ModelRef("default", "other")
CONTENT = "0123456789abcdef"


async def declare(store: MemoryStore, uri: str, ref: ModelRef = REF) -> None:
    spec = ModelSpec(ref=ref_to_proto(ref), source=ModelSource(uri=uri))
    await store.put(key_of(ModelKey(ref)), dumps(spec))


def ended(record: Ingestion | None) -> bool:
    return record is not None and record.state == model_pb2.INGESTION_STATE_DONE


async def recorded(
    store: MemoryStore, accept: Callable[[Ingestion | None], bool], ref: ModelRef = REF
) -> Ingestion:
    """The record, or an empty one, as soon as ``accept`` takes it."""
    key = key_of(IngestionKey(ref))
    async with asyncio.timeout(60), store.watch(key) as events:
        async for _ in events:
            entry = await MemoryStore.get(store, key)
            record = loads(entry.value, Ingestion, where=key) if entry else None
            if accept(record):
                return record or Ingestion()
    raise AssertionError("the watch ended")


async def test_a_source_that_is_no_address_holds_up_nobody(
    hub: Hub, settings: RegistrySettings
) -> None:
    store = MemoryStore()
    await declare(store, "http://[::1", OTHER)
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        await recorded(store, ended)
        record = await recorded(store, lambda record: bool(record and record.failures), OTHER)
    assert "is no address" in record.reason


async def test_a_metadata_store_that_was_away_for_a_moment_is_asked_again(
    hub: Hub, settings: RegistrySettings
) -> None:
    class Away(MemoryStore):
        left = 1

        async def get(self, key: str) -> Entry | None:
            if key == key_of(IngestionKey(REF)) and self.left:
                self.left -= 1
                raise StoreUnavailable("away")
            return await super().get(key)

    store = Away()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        await recorded(store, ended)
    assert not store.left


async def test_what_was_deleted_while_nobody_led_is_forgotten(settings: RegistrySettings) -> None:
    store = MemoryStore()
    await store.put(key_of(IngestionKey(REF)), dumps(Ingestion(model=ref_to_proto(REF))))
    scratch_of(settings.scratch, REF, CONTENT).mkdir(parents=True)
    async with ingesting(store, settings, "only"):
        await recorded(store, lambda record: record is None)
    assert list(settings.scratch.iterdir()) == []


async def test_what_is_deleted_while_another_leads_leaves_nothing_here(
    settings: RegistrySettings, tmp_path: Path
) -> None:
    store = MemoryStore()
    await declare(store, "file:///of/agents")
    await declare(store, "file:///of/agents", OTHER)
    here = replace(settings, scratch=tmp_path / "here")
    ours = [scratch_of(here.scratch, ref, CONTENT) for ref in (REF, OTHER)]
    foreign = here.scratch / "somebody's"
    gone = scratch_of(here.scratch, ModelRef("default", "gone"), CONTENT)
    for path in (*ours, foreign, gone):
        path.mkdir(parents=True)
    async with ingesting(store, settings, "leads"):
        async with asyncio.timeout(60), store.watch(LEADERS) as events:
            async for _ in events:
                if (await store.list_prefix(LEADERS)).entries:
                    break
        async with asyncio.timeout(60), ingesting(store, here, "follows"):
            while gone.exists():  # noqa: ASYNC110 - a file system tells nothing
                await asyncio.sleep(0.01)
            await store.delete(key_of(ModelKey(REF)))
            while ours[0].exists():  # noqa: ASYNC110 - nor here
                await asyncio.sleep(0.01)
    assert sorted(here.scratch.iterdir()) == sorted([ours[1], foreign])


async def test_what_another_has_finished_is_not_kept_here(
    hub: Hub, settings: RegistrySettings
) -> None:
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "first"):
        await recorded(store, ended)
    ours = scratch_of(settings.scratch, REF, CONTENT)
    ours.mkdir(parents=True)
    async with asyncio.timeout(60), ingesting(store, settings, "second"):
        while ours.exists():  # noqa: ASYNC110 - a file system tells nothing
            await asyncio.sleep(0.01)


async def test_an_earlier_content_is_not_kept(hub: Hub, settings: RegistrySettings) -> None:
    scratch_of(settings.scratch, REF, CONTENT).mkdir(parents=True)
    others = scratch_of(settings.scratch, OTHER, CONTENT)
    others.mkdir()
    store = MemoryStore()
    await declare(store, "file:///of/agents", OTHER)
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        await recorded(store, ended)
    assert list(settings.scratch.iterdir()) == [others]


def test_names_do_not_mix_up_directories(tmp_path: Path) -> None:
    kept = scratch_of(tmp_path, ModelRef("a", f"b.{CONTENT}"), CONTENT)
    kept.mkdir()
    scratch_of(tmp_path, ModelRef("a", "b"), CONTENT).mkdir()
    clear_scratch(tmp_path, ModelRef("a", "b"))
    assert list(tmp_path.iterdir()) == [kept]


async def test_every_copy_that_is_found_is_told(hub: Hub, settings: RegistrySettings) -> None:
    before, after = MemoryStore(), MemoryStore()
    for store in (before, after):
        await declare(store, "hf://owner/tiny")
        async with ingesting(store, settings, "only"):
            record = await recorded(store, ended)
        assert len(record.locations) == len(settings.stores)


@pytest.mark.parametrize("work_is_here", [True, False])
async def test_one_that_died_between_two_stores_makes_up_for_the_second(
    hub: Hub, settings: RegistrySettings, work_is_here: bool
) -> None:
    before, after = MemoryStore(), MemoryStore()
    await declare(before, "hf://owner/tiny")
    async with ingesting(before, replace(settings, stores=settings.stores[:1]), "dead"):
        (place,) = (await recorded(before, ended)).locations
    if work_is_here:
        scratch_of(settings.scratch, REF, place.rpartition("/")[2]).mkdir()
    await declare(after, "hf://owner/tiny")
    async with ingesting(after, settings, "only"):
        record = await recorded(after, ended)
    assert len(record.locations) == 1 + work_is_here


async def test_an_error_of_any_length_is_told(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "source", seed=1, shards=2)
    name = "x" * 200_000
    for shard in source.glob("*.safetensors"):
        save_file({name: np.zeros(1, np.float32)}, shard)
    with pytest.raises(Corrupt, match="xxx"):
        await convert(source, tmp_path / "target", lambda *_: None)
