from __future__ import annotations

import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import dumps, ref_to_proto


async def test_models_are_listed_under_names_that_can_be_asked_for(
    client: openai.AsyncOpenAI, store: Store
) -> None:
    assert [model.id async for model in client.models.list()] == []
    for namespace in ("team", "default"):
        model = ModelRef(namespace, "tiny")
        await store.put(key_of(ModelKey(model)), dumps(ModelSpec(ref=ref_to_proto(model))))
    names = [model.id async for model in client.models.list()]
    assert names == ["tiny", "team/tiny"]
    for name in names:
        model_named = await client.models.retrieve(name)
        assert model_named.id == name
        assert model_named.object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("other/tiny")
    assert caught.value.code == "model_not_found"
