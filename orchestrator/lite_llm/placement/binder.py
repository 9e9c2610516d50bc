"""Claims loads: the one writer of assignments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AssignmentKey, assignments_of, key_of
from lite_llm.metastore import Absent, Put, Store
from lite_llm.proto.v1.agent_pb2 import Assignment
from lite_llm.proto.v1.model_pb2 import Medium
from lite_llm.wire import dumps, ref_to_proto


class Binder:
    """Claims in the name of one orchestrator."""

    def __init__(self, store: Store, claimant: str, *, claim_seconds: float) -> None:
        """``claimant`` is unique. A claim outlives a crash of its holder by ``claim_seconds``."""
        self._store = store
        self._claimant = claimant
        self._claim_seconds = claim_seconds

    @asynccontextmanager
    async def claim(
        self, model: ModelRef, node: str, *, reason: str, generation: int
    ) -> AsyncIterator[Assignment | None]:
        """The right to load ``model``, on ``node``, while the block runs; None if another has it.

        The assignment is written under a lease of its own, so it never outlives the load it is for.
        """
        assignment = Assignment(
            model=ref_to_proto(model),
            node=node,
            target=Medium.MEDIUM_GPU,
            claimed_by=self._claimant,
            reason=reason,
            spec_generation=generation,
        )
        key = key_of(AssignmentKey(model, node))
        async with self._store.lease(self._claim_seconds) as lease:
            result = await self._store.transact(
                when=[Absent(key)], then=[Put(key, dumps(assignment), lease)]
            )
            won = result.succeeded and await self._is_first(model, key)
            yield assignment if won else None

    async def _is_first(self, model: ModelRef, key: str) -> bool:
        # Another may have chosen another agent, so another key: of all claims, the oldest counts.
        claims = (await self._store.list_prefix(assignments_of(model))).entries
        first = min(claims, key=lambda entry: entry.create_revision, default=None)
        return first is not None and first.key == key
