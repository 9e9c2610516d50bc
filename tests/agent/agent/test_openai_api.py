"""The agent's own OpenAI endpoints, as the real client of OpenAI sees them; a real worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from lite_llm.agent import AgentSettings, running
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.wire import open_channel

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Of an agent that holds the model ``tiny``."""
    checkpoint = tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=1)
    settings = AgentSettings(
        state_directory=tmp_path_factory.mktemp("agent"),
        node="node-1",
        worker_threads=1,
        prefork=False,
        kv_bytes=1 << 20,
    )
    async with AsyncExitStack() as opened:
        store = await opened.enter_async_context(open_store(StoreSettings()))
        agent = await opened.enter_async_context(running(settings, store))
        channel = await opened.enter_async_context(open_channel(agent.grpc_address))
        spec = model_pb2.ModelSpec(ref=model_pb2.ModelRef(namespace="default", name="tiny"))
        spec.source.uri = str(checkpoint)
        _ = [step async for step in AgentStub(channel).Load(agent_pb2.LoadRequest(spec=spec))]
        yield f"http://{agent.http_address}"


@pytest_asyncio.fixture(loop_scope="module")
async def client(address: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{address}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def test_whole_and_streamed_are_the_same(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(
        model="tiny", prompt="the same", max_tokens=8, seed=1, temperature=0.5
    )
    stream = await client.completions.create(
        model="tiny", prompt="the same", max_tokens=8, seed=1, temperature=0.5, stream=True
    )
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert whole.choices[0].text == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 8


async def test_several_prompts_and_choices(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="tiny", prompt=["a", "b"], n=2, max_tokens=4, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in answer.choices]
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("default/tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("absent")


async def test_faults_are_told_in_openai_s_shape(client: openai.AsyncOpenAI, address: str) -> None:
    with pytest.raises(openai.NotFoundError) as absent:
        await client.completions.create(model="absent", prompt="x")
    assert absent.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.completions.create(model="tiny", prompt="x", temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        await client.completions.create(model="tiny", prompt="x", max_tokens=100_000)
    async with aiohttp.ClientSession(address) as http, http.get("/v1/nothing") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    ],
    ids=lambda form: form["type"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_our_own_engine_refuses_to_promise_a_schema(
    client: openai.AsyncOpenAI, form: Any, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match="schema") as refused:
        await client.completions.create(
            model="tiny", prompt="x", stream=stream, extra_body={"response_format": form}
        )
    assert refused.value.param == "response_format"
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("listen", "asked", "serves"),
    [
        ("127.0.0.1:0", None, True),
        ("localhost:0", None, True),
        ("[::1]:0", None, True),
        ("0.0.0.0:0", None, False),
        ("10.0.0.1:0", None, False),
        ("10.0.0.1:0", True, True),
        ("127.0.0.1:0", False, False),
    ],
)
async def test_without_keys_only_this_machine_is_served(
    listen: str, asked: bool | None, serves: bool, tmp_path: Path
) -> None:
    settings = AgentSettings(state_directory=tmp_path, listen_http=listen, openai_api=asked)
    assert settings.serves_openai is serves
