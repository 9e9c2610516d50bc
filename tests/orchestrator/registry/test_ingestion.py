"""From a hub into stores, by whoever leads: once, resumed, recorded, and never by halves."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from lite_llm.checkpoint import INDEX_NAME, Finding, convert, open_checkpoint, verify
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidRequest, InvalidSettings
from lite_llm.contracts.keyspace import IngestionKey, ModelKey, key_of
from lite_llm.metastore import MemoryStore
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec
from lite_llm.registry import (
    RegistrySettings,
    ingesting,
    publish,
    signed_urls,
)
from lite_llm.registry.publishing import checkpoint_files, published_index
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.hub import Hub
from lite_llm.wire import dumps, loads, ref_to_proto

REF = ModelRef("default", "tiny")
RECORD = key_of(IngestionKey(REF))


async def declare(store: MemoryStore, uri: str, backend: str = "") -> None:
    spec = ModelSpec(ref=ref_to_proto(REF), source=ModelSource(uri=uri), backend=backend)
    await store.put(key_of(ModelKey(REF)), dumps(spec))


async def recorded(store: MemoryStore, accept: Callable[[Ingestion], bool]) -> Ingestion:
    """The record, as soon as ``accept`` takes it."""
    async with asyncio.timeout(60), store.watch(RECORD) as events:
        async for _ in events:
            entry = await store.get(RECORD)
            if entry and accept(record := loads(entry.value, Ingestion, where=RECORD)):
                return record
    raise AssertionError("the watch ended")


def done(record: Ingestion) -> bool:
    return record.state == model_pb2.INGESTION_STATE_DONE


def failed(record: Ingestion) -> bool:
    return record.state == model_pb2.INGESTION_STATE_FAILED


def weights(hub: Hub) -> set[int]:
    """How often shards were downloaded."""
    return {count for name, count in hub.gets.items() if name.endswith(".safetensors")}


async def test_a_hub_model_is_fetched_once_and_lies_in_every_store(
    hub: Hub, settings: RegistrySettings, s3: dict[str, str]
) -> None:
    store = MemoryStore()
    async with ingesting(store, settings, "first"), ingesting(store, settings, "second"):
        await declare(store, "hf://owner/tiny")
        record = await recorded(store, done)
    primary, second = record.locations
    assert primary.startswith(settings.stores[0])
    assert weights(hub) == {1}, "every shard was downloaded once"
    directory = Path(second.removeprefix("file://"))
    assert [step for step in verify(directory) if isinstance(step, Finding)] == []
    with open_checkpoint(directory) as ours, open_checkpoint(hub.directory) as theirs:
        assert {one.name for one in ours.manifest.tensors} == {
            one.name for one in theirs.manifest.tensors
        }
    index = (directory / INDEX_NAME).read_bytes()
    assert hashlib.sha256(index).hexdigest() == record.checkpoint_digest
    assert await published_index(primary, s3) == index
    assert list(settings.scratch.iterdir()) == []


async def test_a_connection_that_is_cut_goes_on_where_it_was(
    hub: Hub, settings: RegistrySettings
) -> None:
    hub.cut = "model-00001-of-00002.safetensors"
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        await recorded(store, done)
    assert hub.gets["model-00001-of-00002.safetensors"] == 2
    assert hub.gets["model-00002-of-00002.safetensors"] == 1


async def test_another_goes_on_when_the_leader_is_gone(
    hub: Hub, settings: RegistrySettings
) -> None:
    hub.stall = "model-00002-of-00002.safetensors"
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "first"):
        await hub.stalled.wait()
        await recorded(store, lambda record: record.done_bytes > 0)
    hub.stall = ""
    async with ingesting(store, settings, "second"):
        record = await recorded(store, done)
    assert record.orchestrator == "second"
    assert hub.gets["config.json"] == 1, "what the first had fetched is kept"


async def test_bytes_that_are_not_what_was_told_fail_by_name_and_are_tried_again(
    hub: Hub, settings: RegistrySettings
) -> None:
    hub.wrong_sha = "model-00001-of-00002.safetensors"
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        record = await recorded(store, failed)
        assert hub.wrong_sha in record.reason
        assert record.failures == 1
        assert record.retry_at > 0
        hub.wrong_sha = ""
        assert (await recorded(store, done)).failures == 0


async def test_a_store_that_has_it_saves_the_fetch(hub: Hub, settings: RegistrySettings) -> None:
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        before = await recorded(store, done)
    hub.gets.clear()
    emptied = MemoryStore()
    await declare(emptied, "hf://owner/tiny")
    async with ingesting(emptied, settings, "only"):
        record = await recorded(emptied, done)
    assert not weights(hub)
    assert record.checkpoint_digest == before.checkpoint_digest


async def test_a_secondary_store_that_fails_costs_a_copy_only(
    hub: Hub, settings: RegistrySettings, tmp_path: Path
) -> None:
    (tmp_path / "blocked").write_text("a file, not a directory")
    blocked = replace(settings, stores=(settings.stores[0], (tmp_path / "blocked/x").as_uri()))
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, blocked, "only"):
        record = await recorded(store, done)
    assert len(record.locations) == 1


async def test_another_source_has_another_place_and_a_deleted_model_no_record(
    hub: Hub, settings: RegistrySettings
) -> None:
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        before = await recorded(store, done)
        os.utime(hub.directory / "config.json", ns=(1, 1))  # a new commit
        await declare(store, f"hf://owner/tiny@{hub.commit}")
        after = await recorded(
            store, lambda record: done(record) and record.source.uri != "hf://owner/tiny"
        )
        assert after.locations[0] != before.locations[0]
        await store.delete(key_of(ModelKey(REF)))
        async with asyncio.timeout(10), store.watch(RECORD) as events:
            async for _ in events:
                if await store.get(RECORD) is None:
                    break


async def test_a_checkpoint_of_ours_is_served_where_it_is(
    settings: RegistrySettings, s3: dict[str, str], tmp_path: Path, hub: Hub
) -> None:
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        place = (await recorded(store, done)).locations[0]
        await declare(store, place)
        record = await recorded(store, lambda record: done(record) and record.source.uri == place)
    assert list(record.locations) == [place]


async def test_a_plain_server_is_read_by_its_indexes(hub: Hub, settings: RegistrySettings) -> None:
    store = MemoryStore()
    await declare(store, f"{hub.url}/plain")
    async with ingesting(store, settings, "only"):
        record = await recorded(store, done)
    assert record.locations


async def test_sources_of_this_machine_and_foreign_backends_are_left_alone(
    hub: Hub, settings: RegistrySettings
) -> None:
    store = MemoryStore()
    await declare(store, hub.directory.as_uri())
    async with ingesting(store, settings, "only"):
        await declare(store, "hf://owner/tiny", backend="vllm")
        await asyncio.sleep(0.3)
    assert hub.gets == {}
    assert await store.get(RECORD) is None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://owner/tiny", "holds neither"),
        ("hf://owner/other", "shows no"),
        ("ftp://host/x", "no store is known"),
    ],
)
async def test_no_checkpoint_is_said_so(
    hub: Hub, settings: RegistrySettings, uri: str, words: str
) -> None:
    (hub.directory / "config.json").unlink()
    store = MemoryStore()
    await declare(store, uri)
    async with ingesting(store, settings, "only"):
        assert words in (await recorded(store, failed)).reason


async def test_signed_addresses_need_no_credentials(
    settings: RegistrySettings, s3: dict[str, str], hub: Hub
) -> None:
    store = MemoryStore()
    await declare(store, "hf://owner/tiny")
    async with ingesting(store, settings, "only"):
        place = (await recorded(store, done)).locations[0]
    urls = await signed_urls(place, [INDEX_NAME], s3, seconds=60)
    assert "Signature" in urls[INDEX_NAME]

    def read() -> bytes:
        with urlopen(urls[INDEX_NAME]) as answer:
            return bytes(answer.read())

    assert await asyncio.to_thread(read) == await published_index(place, s3)
    with pytest.raises(InvalidRequest, match="can't be signed"):
        await signed_urls("file:///x", [INDEX_NAME], {})


async def test_the_index_is_put_last(tmp_path: Path) -> None:
    for _ in convert(tiny_llama(tmp_path / "hf", seed=1), tmp_path / "ours"):
        pass
    names = checkpoint_files(tmp_path / "ours")
    assert names[-1] == INDEX_NAME
    target = (tmp_path / "put").as_uri()
    assert await published_index(target, {}) is None
    await publish(tmp_path / "ours", target, {}, lambda _: None)
    assert sorted(path.name for path in (tmp_path / "put").iterdir()) == sorted(names)


@pytest.mark.parametrize("stores", [(), ("http://somewhere/x",), ("/a/path",)])
def test_stores_that_can_not_be_written_are_refused(
    stores: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(InvalidSettings):
        RegistrySettings(stores=stores, scratch=tmp_path)
