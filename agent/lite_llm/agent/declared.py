"""What others declared in the metadata store, read when it is needed."""

from __future__ import annotations

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound
from lite_llm.contracts.keyspace import ModelKey, TierSetKey, key_of
from lite_llm.metastore import Store
from lite_llm.proto.v1.model_pb2 import ModelSpec, TierSetSpec
from lite_llm.wire import loads


class Declared:
    """Reads; never writes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def model(self, ref: ModelRef) -> ModelSpec:
        """:class:`ModelNotFound` if nobody declared it."""
        key = key_of(ModelKey(ref))
        if (entry := await self._store.get(key)) is None:
            raise ModelNotFound(f"nobody declared {ref}", where=str(ref), remedy="declare it")
        return loads(entry.value, ModelSpec, where=key)

    async def tier_set(self, ref: ModelRef) -> TierSetSpec:
        """:class:`InvalidRequest` if nobody declared it."""
        key = key_of(TierSetKey(ref))
        if (entry := await self._store.get(key)) is None:
            raise InvalidRequest(
                f"there is no TierSet {ref}", where="tier_set", remedy="declare it, or name another"
            )
        return loads(entry.value, TierSetSpec, where=key)
