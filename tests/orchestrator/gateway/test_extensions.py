"""vLLM's extensions, asked by the real client through the door of a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from lite_llm.agent import AgentSettings
from lite_llm.agent import running as running_agent
from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.wire import dumps, ref_to_proto

PROMPT = [5, 9, 3]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 6}


@pytest.fixture(autouse=True)
async def engine(store: Store, tmp_path: Path) -> AsyncIterator[None]:
    """A real agent, and the model ``tiny`` for it."""
    checkpoint = tiny_llama(tmp_path / "checkpoint", seed=1)
    settings = AgentSettings(
        state_directory=tmp_path / "agent",
        node="node-1",
        worker_threads=1,
        prefork=False,
        kv_bytes=1 << 20,
    )
    model = ModelRef("default", "tiny")
    spec = ModelSpec(ref=ref_to_proto(model), source=ModelSource(uri=checkpoint.as_uri()))
    await store.put(key_of(ModelKey(model)), dumps(spec))
    async with running_agent(settings, store):
        yield


async def test_extra_body_reaches_the_engine(client: openai.AsyncOpenAI) -> None:
    async def completed(**extra: Any) -> Any:
        answer = await client.completions.create(
            prompt=PROMPT, **GREEDY, extra_body={"return_token_ids": True, **extra}
        )
        return answer.choices[0]

    plain = await completed(ignore_eos=True)
    assert plain.prompt_token_ids == PROMPT
    assert len(plain.token_ids) == 6

    rated = await completed(ignore_eos=True, prompt_logprobs=2)
    assert rated.token_ids == plain.token_ids
    first, *others = rated.prompt_logprobs
    assert first is None
    assert [str(token) in each for token, each in zip(PROMPT[1:], others, strict=True)] == [
        True
    ] * 2
    assert all(2 <= len(each) <= 3 for each in others)
    assert all(told["logprob"] <= 0 for each in others for told in each.values())

    stop = plain.token_ids[1]
    early = await completed(ignore_eos=True, stop_token_ids=[stop])
    assert (early.finish_reason, early.token_ids[-1]) == ("stop", stop)
    late = await completed(ignore_eos=True, stop_token_ids=[stop], min_tokens=5)
    assert len(late.token_ids) >= 5
    assert stop not in late.token_ids[:4]

    stream = await client.completions.create(
        prompt=PROMPT,
        **GREEDY,
        stream=True,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    chunks: list[Any] = [chunk async for chunk in stream]
    ids = [token for chunk in chunks for token in chunk.choices[0].token_ids or []]
    assert ids == plain.token_ids


async def test_a_schema_is_refused_at_the_door_as_at_the_agent(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="held to JSON") as refused:
        await client.completions.create(
            prompt=PROMPT, **GREEDY, extra_body={"response_format": {"type": "json_object"}}
        )
    assert refused.value.param == "response_format"
