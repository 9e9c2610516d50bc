"""An orchestrator with real servers, over a store in memory and an agent without a model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.dispatch import HoldLimits
from lite_llm.metastore import Store, StoreSettings, open_store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.testing.stub_agent import StubAgent, stub_agent
from lite_llm.wire import dumps, ref_to_proto


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store(StoreSettings()) as opened:
        yield opened


@pytest.fixture
async def model(store: Store) -> ModelRef:
    """Declared in the store."""
    model = ModelRef("default", "tiny")
    spec = ModelSpec(ref=ref_to_proto(model), source=ModelSource(uri="file:///models/tiny"))
    await store.put(key_of(ModelKey(model)), dumps(spec))
    return model


@pytest.fixture
async def agent(store: Store) -> AsyncIterator[StubAgent]:
    async with stub_agent(store) as stub:
        yield stub


@pytest.fixture
def settings() -> OrchestratorSettings:
    return OrchestratorSettings(
        listen_http="127.0.0.1:0",
        max_body_bytes=256 << 10,
        hold=HoldLimits(seconds=30.0),
        no_agent_seconds=0.2,
        grace_seconds=0.0,
    )


@pytest.fixture
async def orchestrator(settings: OrchestratorSettings, store: Store) -> AsyncIterator[Orchestrator]:
    async with running(settings, store) as started:
        yield started


@pytest.fixture
async def http(orchestrator: Orchestrator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{orchestrator.http_address}") as session:
        yield session


@pytest.fixture
async def client(orchestrator: Orchestrator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"http://{orchestrator.http_address}/v1", api_key="none", max_retries=0
    ) as opened:
        yield opened
