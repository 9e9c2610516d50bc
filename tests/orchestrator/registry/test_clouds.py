"""Every kind of store: what is put there is read, listed and signed by the stores' own rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import obstore
import pytest

from lite_llm.checkpoint import INDEX_NAME, Finding, convert, verify
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Forbidden, LiteLLMError
from lite_llm.contracts.keyspace import IngestionKey, ModelKey, key_of
from lite_llm.metastore import MemoryStore, Written
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec
from lite_llm.registry import RegistrySettings, ingesting, publish, signed_urls
from lite_llm.registry import publishing as publishing_module
from lite_llm.registry.publishing import checkpoint_files, published_index
from lite_llm.stores import list_checkpoint, open_bucket, open_source
from lite_llm.stores.source import LocalSource
from lite_llm.testing.buckets import Buckets, serving_buckets
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.hub import Hub
from lite_llm.wire import dumps, loads, ref_to_proto


@pytest.fixture
async def buckets() -> AsyncIterator[Buckets]:
    async with serving_buckets() as serving:
        yield serving


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for _ in convert(tiny_llama(tmp_path / "hf", seed=1), tmp_path / "ours"):
        pass
    return tmp_path / "ours"


@pytest.fixture(params=["s3", "az", "gs"])
def options(
    request: pytest.FixtureRequest, buckets: Buckets, s3: dict[str, str]
) -> tuple[str, Mapping[str, str]]:
    """A scheme, and the options for it."""
    return request.param, {"s3": s3, "az": buckets.azure, "gs": buckets.google}[request.param]


async def read(url: str) -> bytes:
    def get() -> bytes:
        with urlopen(url) as answer:
            return bytes(answer.read())

    return await asyncio.to_thread(get)


def listing(place: str, known: Mapping[str, str]) -> list[str]:
    return [one["path"] for batch in obstore.list(open_bucket(place, known)) for one in batch]


async def test_what_is_published_is_there_in_parts_too_and_readable_by_signed_addresses(
    options: tuple[str, Mapping[str, str]],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheme, known = options
    if scheme != "s3":  # whose parts have five megabytes at least
        monkeypatch.setattr(publishing_module, "PART_BYTES", 1000)
    place = f"{scheme}://models/{tmp_path.name}/tiny"
    assert await published_index(place, known) is None
    await publish(checkpoint, place, known, lambda _: None)
    names = checkpoint_files(checkpoint)
    listed = await asyncio.to_thread(listing, place, known)
    assert sorted(listed) == sorted(names)
    source = await open_source(place, options=known)
    assert not isinstance(source, LocalSource)
    assert {file.name for file in (await list_checkpoint(source)).files} >= {INDEX_NAME}
    urls = await signed_urls(place, names, known, seconds=60)
    for name, url in urls.items():
        assert await read(url) == (checkpoint / name).read_bytes()


@pytest.mark.parametrize("scheme", ["az", "gs"])
async def test_a_signed_address_is_for_one_file_and_for_a_while(
    scheme: str, buckets: Buckets, checkpoint: Path
) -> None:
    known = {"az": buckets.azure, "gs": buckets.google}[scheme]
    place = f"{scheme}://models/tiny"
    await publish(checkpoint, place, known, lambda _: None)
    (url,) = (await signed_urls(place, [INDEX_NAME], known, seconds=1)).values()
    other = next(name for name in checkpoint_files(checkpoint) if name != INDEX_NAME)
    for wrong in (url.replace(INDEX_NAME, other), url.partition("?")[0]):
        with pytest.raises(HTTPError, match="403"):
            await read(wrong)
    await asyncio.sleep(2.1)
    with pytest.raises(HTTPError, match="403"):
        await read(url)


@pytest.mark.parametrize("scheme", ["az", "gs"])
async def test_a_wrong_key_is_refused_by_name(
    scheme: str, buckets: Buckets, checkpoint: Path
) -> None:
    async with serving_buckets() as others:  # with a signer of their own
        stolen = {"gs": {**others.google}, "az": {**buckets.azure, "account_key": "d3Jvbmc="}}
        known = stolen[scheme]
        if scheme == "gs":
            known["service_account_key"] = known["service_account_key"].replace(
                others.url, buckets.url
            )
        with pytest.raises(LiteLLMError) as caught:
            await publish(checkpoint, f"{scheme}://models/tiny", known, lambda _: None)
    assert isinstance(caught.value, Forbidden)
    assert buckets.objects == {}


async def test_a_model_lies_in_three_clouds(
    hub: Hub, settings: RegistrySettings, buckets: Buckets, tmp_path: Path
) -> None:
    stores = (settings.stores[0], "az://models/copies", "gs://models/copies")
    known = {**settings.options, "az": buckets.azure, "gs": buckets.google}
    store = MemoryStore()
    model = ModelRef("default", "tiny")
    spec = ModelSpec(ref=ref_to_proto(model), source=ModelSource(uri="hf://owner/tiny"))
    await store.put(key_of(ModelKey(model)), dumps(spec))
    key, record = key_of(IngestionKey(model)), Ingestion()
    clouds = replace(settings, stores=stores, options=known)
    async with asyncio.timeout(60), ingesting(store, clouds, "only"), store.watch(key) as events:
        async for event in events:
            if isinstance(event, Written):
                record = loads(event.entry.value, Ingestion, where=key)
            if record.state == model_pb2.INGESTION_STATE_DONE:
                break
    assert [place.partition(":")[0] for place in record.locations] == ["s3", "az", "gs"]
    indexes = {
        await published_index(place, known[place.partition(":")[0]]) for place in record.locations
    }
    assert len(indexes) == 1
    below = tmp_path / "copy"
    below.mkdir()
    _, _, folder = record.locations[2].partition("gs://")
    for name, value in buckets.objects.items():
        if name.startswith(folder):
            (below / name.rpartition("/")[2]).write_bytes(value)
    assert [step for step in verify(below) if isinstance(step, Finding)] == []
