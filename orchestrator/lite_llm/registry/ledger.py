"""What is written down about ingestions, by the one who leads and by nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import Corrupt, LeaseLost
from lite_llm.contracts.keyspace import IngestionKey, key_of
from lite_llm.metastore import Delete, Put, Store
from lite_llm.metastore.election import Leadership
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource
from lite_llm.wire import dumps, loads, ref_to_proto

WRITE_SECONDS = 2.0  # between two writes of mere progress


class Ledger:
    """Fenced: who no longer leads writes nothing."""

    def __init__(self, store: Store, leadership: Leadership, name: str) -> None:
        """``name`` is this orchestrator's."""
        self.name = name
        self._store = store
        self._fence = leadership.fence

    async def record_of(self, model: ModelRef, source: ModelSource) -> Record:
        """What is known of ``source``; a new record if another source was ingested last."""
        key = key_of(IngestionKey(model))
        entry = await self._store.get(key)
        value = Ingestion(model=ref_to_proto(model), source=source)
        if entry is not None:
            try:
                stored = loads(entry.value, Ingestion, where=key)
            except Corrupt:
                stored = value  # written anew
            if stored.source == source:
                value = stored
        return Record(self, key, value)

    async def write(self, key: str, value: Ingestion) -> None:
        """Raises :class:`LeaseLost` where another leads by now."""
        await self._transact(Put(key, dumps(value)))

    async def forget(self, key: str) -> None:
        """The model is gone."""
        await self._transact(Delete(key))

    async def _transact(self, operation: Put | Delete) -> None:
        result = await self._store.transact(when=[self._fence], then=[operation])
        if not result.succeeded:
            raise LeaseLost("another orchestrator ingests now", where=operation.key)


class Record:
    """One model's entry, as it comes along."""

    def __init__(self, ledger: Ledger, key: str, value: Ingestion) -> None:
        self.value = value
        self._ledger = ledger
        self._key = key
        self._written = 0.0

    @property
    def is_done(self) -> bool:
        """There is nothing left to do for this source."""
        return self.value.state == model_pb2.INGESTION_STATE_DONE

    @property
    def seconds_to_wait(self) -> float:
        """Before the next attempt is due."""
        return max(0.0, self.value.retry_at - time.time())

    async def entered(
        self, state: model_pb2.IngestionState.ValueType, reason: str, total_bytes: int
    ) -> None:
        """A new phase begins."""
        self.value.state, self.value.reason = state, reason
        self.value.done_bytes, self.value.total_bytes = 0, total_bytes
        await self._write()

    async def progressed(self, done_bytes: int, reason: str) -> None:
        """Within a phase; most of these are not worth a write."""
        self.value.done_bytes, self.value.reason = done_bytes, reason
        if time.monotonic() - self._written > WRITE_SECONDS:
            await self._write()

    async def finished(self, digest: str, locations: list[str], reason: str) -> None:
        """The checkpoint lies at ``locations``."""
        self.value.checkpoint_digest = digest
        self.value.ClearField("locations")
        self.value.locations.extend(locations)
        self.value.state, self.value.reason = model_pb2.INGESTION_STATE_DONE, reason
        self.value.failures, self.value.retry_at = 0, 0
        await self._write()

    async def failed(self, error: Exception, retry_seconds: Callable[[int], float]) -> None:
        """It is tried again after a while, by whoever leads then."""
        self.value.failures += 1
        self.value.retry_at = int(time.time() + retry_seconds(self.value.failures)) + 1
        words = str(error) if isinstance(error, LiteLLMError) else f"{type(error).__name__}"
        self.value.state, self.value.reason = model_pb2.INGESTION_STATE_FAILED, words
        await self._write()

    async def _write(self) -> None:
        self.value.orchestrator = self._ledger.name
        self._written = time.monotonic()
        await self._ledger.write(self._key, self.value)
