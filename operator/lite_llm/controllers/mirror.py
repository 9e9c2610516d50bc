"""Intent, from custom resources to the store. Level-triggered: repeating it is harmless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef, outcome_of
from lite_llm.contracts.errors import InvalidName
from lite_llm.contracts.keyspace import MODELS, ModelKey, key_of
from lite_llm.controllers.conditions import Condition, with_condition
from lite_llm.controllers.specs import ResourceName, model_spec
from lite_llm.metastore import Store
from lite_llm.wire import dumps, ref_from_proto

ACCEPTED = "Accepted"

log = structlog.get_logger(__name__)


def model_key(resource: ResourceName) -> str | None:
    """The key under which a resource is mirrored; None if its name can't be a model's."""
    try:
        return key_of(ModelKey(ModelRef(*resource)))
    except InvalidName:
        return None


class Mirror:
    """The one writer of the models' prefix."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def declare(self, body: Mapping[str, Any], *, now: str) -> dict[str, Any]:
        """Store what a ``LiteLLMModel`` asks for; returns the status that tells what became of it.

        A spec that can't be stored gives a condition that says why; the last good one stays. Only
        a store that can't be reached raises.
        """
        try:
            spec = model_spec(body)
        except LiteLLMError as error:
            return self._status(body, now, False, outcome_of(error).reason, str(error))
        key, value = key_of(ModelKey(ref_from_proto(spec.ref))), dumps(spec)
        entry = await self._store.get(key)
        if entry is None or entry.value != value:
            await self._store.put(key, value)
            log.info("model declared", key=key, generation=spec.generation)
        return self._status(body, now, True, "Stored", "the model can be asked for")

    async def forget(self, resource: ResourceName) -> None:
        """Withdraw a model whose resource is gone."""
        key = model_key(resource)
        if key and await self._store.delete(key):
            log.info("model withdrawn", key=key)

    async def collect(self, declared: Iterable[ResourceName]) -> None:
        """Withdraw every model whose resource went while nobody was watching.

        What lies under a lease is somebody else's, such as ``lite-llm up``'s, and goes with them.
        """
        wanted = {model_key(resource) for resource in declared}
        for entry in (await self._store.list_prefix(MODELS)).entries:
            if entry.key not in wanted and not entry.lease_id:
                await self._store.delete(entry.key)
                log.info("orphaned model withdrawn", key=entry.key)

    @staticmethod
    def _status(
        body: Mapping[str, Any], now: str, accepted: bool, reason: str, message: str
    ) -> dict[str, Any]:
        generation = body["metadata"]["generation"]
        conditions: list[Condition] = with_condition(
            body.get("status", {}).get("conditions", []),
            kind=ACCEPTED,
            status=accepted,
            reason=reason,
            message=message,
            generation=generation,
            now=now,
        )
        return {"observedGeneration": generation, "conditions": conditions}
