"""Aliases where the view lags behind the store."""

from __future__ import annotations

import asyncio
from typing import Any

from lite_llm.contracts import ModelRef
from lite_llm.dispatch.switching import switching
from lite_llm.metastore import Store
from lite_llm.placement import Observed
from lite_llm.placement.aliases import is_ready
from lite_llm.placement.view import view_of
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Health, Residency
from lite_llm.proto.v1.model_pb2 import Alias, ModelSpec
from lite_llm.wire import ref_to_proto

CHAT, BLUE, GREEN = (ModelRef("default", name) for name in ("chat", "blue", "green"))


class Counting:
    """Reads of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    async def get(self, key: str) -> Any:
        self.reads += 1
        assert self.reads < 100, "it asks again and again"
        return await self._store.get(key)


async def test_a_switch_that_is_gone_is_waited_for_and_not_asked_for_again(store: Store) -> None:
    spec = ModelSpec(ref=ref_to_proto(GREEN))
    agent = AgentStatus(node="a", grpc_address="a:1", health=Health(healthy=True))
    residency = Residency(model=ref_to_proto(GREEN), node="a", state=model_pb2.MODEL_STATE_ACTIVE)
    alias = Alias(ref=ref_to_proto(CHAT), target=ref_to_proto(BLUE), next=ref_to_proto(GREEN))
    view = view_of(
        1,
        models={GREEN: spec},
        agents={"a": agent},
        residencies={GREEN: {"a": residency}},
        aliases={CHAT: alias},
    )
    assert is_ready(view, GREEN)
    views, counting = Observed(view), Counting(store)
    async with switching(counting, views, None):  # type: ignore[arg-type]  # nothing is loaded
        for _ in range(500):
            await asyncio.sleep(0)
        assert counting.reads == 1
