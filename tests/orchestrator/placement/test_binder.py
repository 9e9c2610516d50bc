from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AssignmentKey, assignments_of, key_of
from lite_llm.metastore import Store
from lite_llm.placement import Binder
from lite_llm.proto.v1.agent_pb2 import Assignment
from lite_llm.wire import loads

MODEL = ModelRef("default", "tiny")


async def test_a_claim_is_seen_by_all_and_gone_at_its_end(store: Store) -> None:
    binder = Binder(store, "door-1", claim_seconds=10)
    key = key_of(AssignmentKey(MODEL, "n1"))
    async with binder.claim(MODEL, "n1", reason="3 requests wait", generation=7) as claim:
        entry = await store.get(key)
        assert entry is not None
        stored = loads(entry.value, Assignment, where=key)
        assert stored == claim
        assert (stored.claimed_by, stored.reason, stored.spec_generation) == (
            "door-1", "3 requests wait", 7,
        )  # fmt: skip
        assert entry.lease_id, "a claim must end with its claimant"
    assert await store.get(key) is None


async def test_one_of_many_has_the_claim_whatever_agents_they_choose(store: Store) -> None:
    all_know = asyncio.Barrier(20)
    won: list[str] = []

    async def compete(number: int) -> None:
        name, node = f"door-{number}", f"n{number % 3}"
        binder = Binder(store, name, claim_seconds=10)
        async with binder.claim(MODEL, node, reason="", generation=1) as claim:
            if claim is not None:
                won.append(claim.claimed_by)
            await all_know.wait()

    async with asyncio.timeout(10):
        await asyncio.gather(*(compete(number) for number in range(20)))
    assert len(won) == 1
    assert (await store.list_prefix(assignments_of(MODEL))).entries == ()


async def test_claims_of_different_models_do_not_meet(store: Store) -> None:
    binder = Binder(store, "door-1", claim_seconds=10)
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            claim = binder.claim(ModelRef("default", name), "n1", reason="", generation=1)
            assert await stack.enter_async_context(claim) is not None
