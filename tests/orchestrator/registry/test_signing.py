"""Agents are told to load from our stores at addresses that open without credentials."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from lite_llm.checkpoint import INDEX_NAME
from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import IngestionKey, ModelKey, key_of
from lite_llm.metastore import Store, Written
from lite_llm.orchestrator import OrchestratorSettings, running
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import LoadRequest
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec
from lite_llm.registry import RegistrySettings
from lite_llm.testing.buckets import serving_buckets
from lite_llm.testing.hub import Hub
from lite_llm.testing.stub_agent import StubAgent
from lite_llm.wire import dumps, loads, ref_to_proto


async def test_a_load_brings_the_addresses_of_what_was_ingested(
    hub: Hub, store: Store, agent: StubAgent, tmp_path: Path
) -> None:
    model = ModelRef("default", "tiny")
    spec = ModelSpec(ref=ref_to_proto(model), source=ModelSource(uri="hf://owner/tiny"))
    await store.put(key_of(ModelKey(model)), dumps(spec))
    async with serving_buckets() as buckets:
        registry = RegistrySettings(
            stores=("az://models/copies",),
            scratch=tmp_path / "scratch",
            options={"az": buckets.azure, "hf": {"endpoint": hub.url}},
        )
        settings = OrchestratorSettings(
            listen_http="127.0.0.1:0", grace_seconds=0.0, no_agent_seconds=30.0, registry=registry
        )
        async with running(settings, store) as door, aiohttp.ClientSession() as http:
            await _ingested(store, model)
            url = f"http://{door.http_address}/v1/completions"
            async with http.post(url, json={"model": "tiny", "prompt": "Count:"}) as answer:
                assert answer.status == 200, await answer.text()
        (request,) = agent.loads
        assert request.spec.source.uri.startswith("az://models/copies/")
        await _assert_readable(request, buckets.objects)


async def _ingested(store: Store, model: ModelRef) -> None:
    key = key_of(IngestionKey(model))
    async with asyncio.timeout(60), store.watch(key) as events:
        async for event in events:
            if isinstance(event, Written):
                record = loads(event.entry.value, Ingestion, where=key)
                if record.state == model_pb2.INGESTION_STATE_DONE:
                    return


async def _assert_readable(request: LoadRequest, objects: dict[str, bytes]) -> None:
    folder = request.spec.source.uri.removeprefix("az://")
    urls = {file.name: file.url for file in request.signed_files}
    stored = {name.removeprefix(f"{folder}/") for name in objects if name.startswith(folder)}
    assert INDEX_NAME in stored <= urls.keys()
    async with aiohttp.ClientSession() as http:
        for name in stored:
            async with http.get(urls[name]) as answer:
                assert await answer.read() == objects[f"{folder}/{name}"]
