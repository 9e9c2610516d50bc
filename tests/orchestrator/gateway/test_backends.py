"""What only some backends can: vectors of texts, and answers that are JSON."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator
from lite_llm.proto.v1.generate_pb2 import GenerateRequest, GenerateStart, SamplingParameters
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import StubAgent
from lite_llm.wire import dumps, error_from, open_channel, ref_to_proto

MESSAGES: list[Any] = [{"role": "user", "content": "x"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMATS: list[tuple[Any, str | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, '{"type":"object"}'),
    (
        {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}},
        '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}',
    ),
]


@pytest.fixture
async def foreign(store: Store, agent: StubAgent) -> None:
    """A model of llama.cpp's, beside the one of our own."""
    spec = ModelSpec(
        ref=ref_to_proto(ModelRef("default", "foreign")),
        source=ModelSource(uri="file:///models/foreign"),
        backend="llamacpp",
    )
    await store.put(key_of(ModelKey(ModelRef("default", "foreign"))), dumps(spec))


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(("wanted", "schema"), FORMATS)
async def test_json_is_asked_of_a_backend_that_can(
    client: openai.AsyncOpenAI, agent: StubAgent, wanted: Any, schema: str | None
) -> None:
    await client.chat.completions.create(model="foreign", messages=MESSAGES, response_format=wanted)
    await client.completions.create(
        model="foreign", prompt="x", extra_body={"response_format": wanted}
    )
    for start in agent.generations:
        assert start.sampling.HasField("json_schema") is (schema is not None)
        assert start.sampling.json_schema == (schema or "")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("wanted", "schema"), FORMATS)
async def test_json_of_our_own_engine_is_refused_by_name(
    client: openai.AsyncOpenAI, agent: StubAgent, wanted: Any, schema: str | None
) -> None:
    asked = client.chat.completions.create(model="tiny", messages=MESSAGES, response_format=wanted)
    if schema is None:
        assert (await asked).choices
        return
    with pytest.raises(openai.BadRequestError) as raised:
        await asked
    assert raised.value.param == "response_format"
    assert "llamacpp" in raised.value.message
    assert not agent.loads


@pytest.mark.usefixtures("model", "agent")
async def test_over_grpc_it_is_refused_the_same_way(orchestrator: Orchestrator) -> None:
    start = GenerateStart(
        model=ref_to_proto(ModelRef("default", "tiny")),
        text="x",
        sampling=SamplingParameters(json_schema="{}"),
    )
    async with open_channel(orchestrator.grpc_address) as channel:
        call = OrchestratorStub(channel).Generate()
        await call.write(GenerateRequest(start=start))
        with pytest.raises(Exception) as raised:  # noqa: PT011 - gRPC's, looked into below
            [event async for event in call]
    assert error_from(raised.value, where="").where == "response_format"  # type: ignore[arg-type]  # it is one


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    "wanted", [{"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "a"}}]
)
async def test_a_schema_that_is_missing_is_asked_for(
    client: openai.AsyncOpenAI, wanted: Any
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(
            model="foreign", messages=MESSAGES, response_format=wanted
        )
    assert raised.value.param == "response_format"


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_vectors_come_in_the_order_of_their_texts(
    client: openai.AsyncOpenAI, agent: StubAgent, encoding: Any
) -> None:
    chosen = {} if encoding is None else {"encoding_format": encoding}
    told = await client.embeddings.create(model="foreign", input=["a", "bcd", "ef"], **chosen)
    assert [each.index for each in told.data] == [0, 1, 2]
    if encoding != "base64":  # the client unpacks what it asked for by itself, and only that
        assert [each.embedding for each in told.data] == [[1.0, 0.0], [3.0, 1.0], [2.0, 2.0]]
    assert (told.usage.prompt_tokens, told.usage.total_tokens) == (3, 3)
    assert len(agent.loads) == 1


@pytest.mark.usefixtures("foreign")
async def test_tokens_and_dimensions_are_passed_on(client: openai.AsyncOpenAI) -> None:
    told = await client.embeddings.create(model="foreign", input=[5, 6, 7], dimensions=1)
    assert [each.embedding for each in told.data] == [[3.0]]
    told = await client.embeddings.create(model="foreign", input=[[5], [6, 7]])
    assert [each.embedding for each in told.data] == [[1.0, 0.0], [2.0, 1.0]]


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("wanted", ["", [], [""], [1, "a"], ["x"] * 2049])
async def test_inputs_that_are_none_are_refused(client: openai.AsyncOpenAI, wanted: Any) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.embeddings.create(model="foreign", input=wanted)
    assert str(raised.value.param).startswith("input")


@pytest.mark.usefixtures("foreign")
async def test_a_model_that_will_not_load_is_told(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.load_error = OutOfMemory("too little memory")
    with pytest.raises(openai.InternalServerError) as raised:
        await client.embeddings.create(model="foreign", input="x")
    assert raised.value.status_code == 503
