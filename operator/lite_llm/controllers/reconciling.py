"""One reconciliation: pure functions decide what is to be done, and it is done here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

import structlog

from lite_llm.contracts import LiteLLMError, TierSet
from lite_llm.contracts.errors import ConfigurationError, Conflict, Corrupt
from lite_llm.controllers.announcing import Announcement, announced
from lite_llm.controllers.cluster import Cluster
from lite_llm.controllers.facts import Facts
from lite_llm.controllers.judging import ModelCase
from lite_llm.controllers.objects import Objects
from lite_llm.controllers.patches import FINALIZER, finalizer_patch, status_patch
from lite_llm.controllers.specs import (
    MODELS,
    TIER_SETS,
    Body,
    ResourceName,
    model_spec,
    tier_set,
    tier_set_spec,
)
from lite_llm.controllers.statuses import Status, model_status, tier_set_status
from lite_llm.metastore import Store
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import dumps, loads

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class StatusSettings:
    """What a status tells that is no fact of the model's, and how long its end may take."""

    selector: str
    """Labels of the agents' pods."""
    url: str
    """Base address at which clients ask; empty: not told."""
    release_seconds: float
    """How long a deleted model's object waits for agents to let go of it."""


class Reconciler:
    """Brings one object's intent and status to where they must be; again does no harm.

    The one writer of models and TierSets in the store, but for what lies under somebody's lease.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        objects: Objects,
        facts: Facts,
        settings: StatusSettings,
        namespaces: Sequence[str] = (),
    ) -> None:
        """``namespaces``: where our objects are; intent of others is not ours to collect."""
        self._cluster = cluster
        self._store = store
        self._objects = objects
        self._facts = facts
        self._settings = settings
        self._namespaces = namespaces
        self._leaving: dict[str, float] = {}
        """When objects, by uid, were first seen to be deleted."""

    async def reconcile(self, name: ResourceName) -> float | None:
        """Seconds after which to look again, whatever happens; None: when something happens.

        Raises what is worth another try: the store or the API server are away, or another writer
        was faster.
        """
        body = self._objects.get(name)
        if body is None:
            await self._forget(name)
            return None
        if "deletionTimestamp" in body["metadata"]:
            return await self._release(name, body)
        body = await self._patched(name, body, wanted=True)
        if body is not None:
            await (self._model if name.plural == MODELS else self._tier_set)(name, body)
        return None

    async def _model(self, name: ResourceName, body: Body) -> None:
        spec, refusal = ModelSpec(), None
        try:
            spec = model_spec(body)
            await self._declare(name, dumps(spec), spec.generation)
        except LiteLLMError as error:
            if not _is_refusal(error):
                raise
            refusal, spec = error, self._stored(name)
        needs = ResourceName(TIER_SETS, name.namespace, spec.tier_set)
        case = ModelCase(
            spec=spec,
            facts=self._facts.of(name.ref),
            agents=self._facts.agents,
            refusal=refusal,
            is_tier_set_missing=bool(spec.tier_set) and needs not in self._objects,
        )
        known = self._settings
        status = model_status(body, case, now=_now(), selector=known.selector, url=known.url)
        await self._tell(name, body, status)

    async def _tier_set(self, name: ResourceName, body: Body) -> None:
        told: TierSet | None = None
        refusal: LiteLLMError | None = None
        try:
            told = tier_set(body)
            await self._declare(name, dumps(tier_set_spec(body)), body["metadata"]["generation"])
        except LiteLLMError as error:
            if not _is_refusal(error):
                raise
            refusal = error
        users = len(self._objects.users(name))
        status = tier_set_status(body, told, refusal, models=users, now=_now())
        await self._tell(name, body, status)

    async def _declare(self, name: ResourceName, value: bytes, generation: int) -> None:
        key = name.key
        assert key is not None, "a name that can't be ours was refused before"
        entry = self._facts.intents.get(key)
        if entry is None or entry.value != value:
            await self._store.put(key, value)
            log.info("declared", key=key, generation=generation)

    def _stored(self, name: ResourceName) -> ModelSpec:
        """What is in force while the newest spec is refused."""
        entry = self._facts.intents.get(name.key or "")
        if entry is None:
            return ModelSpec()
        try:
            return loads(entry.value, ModelSpec, where=entry.key)
        except Corrupt:
            return ModelSpec()

    async def _forget(self, name: ResourceName) -> None:
        """Withdraw what is stored of an object that is gone.

        What lies under a lease is somebody else's, such as ``lite-llm up``'s, and goes with them.
        """
        entry = self._facts.intents.get(name.key or "")
        is_ours = not self._namespaces or name.namespace in self._namespaces
        if entry is not None and not entry.lease_id and is_ours:
            await self._store.delete(entry.key)
            log.info("withdrawn", key=entry.key)

    async def _release(self, name: ResourceName, body: Body) -> float | None:
        """A deleted object goes once nobody uses what it stood for."""
        uid = body["metadata"]["uid"]
        if FINALIZER not in body["metadata"].get("finalizers", ()):
            self._leaving.pop(uid, None)
            await self._forget(name)
            return None
        if name.plural == TIER_SETS and self._objects.users(name):
            count = len(self._objects.users(name))
            refusal = Conflict(f"it goes when no model names it any more; {count} do")
            status = tier_set_status(body, None, refusal, models=count, now=_now())
            await self._tell(name, body, status)
            return None
        await self._forget(name)
        left = self._leaving.setdefault(uid, monotonic()) + self._settings.release_seconds
        if self._is_held(name) and left > monotonic():
            return left - monotonic()
        await self._patched(name, body, wanted=False)
        self._leaving.pop(uid, None)
        if name.plural == MODELS:
            told = Announcement("Withdrawn", "agents have let go of the model")
            await self._cluster.announce(name, body, told)
        return None

    def _is_held(self, name: ResourceName) -> bool:
        if name.plural == TIER_SETS:
            return False
        case = ModelCase(spec=ModelSpec(), facts=self._facts.of(name.ref), agents={})
        return bool(case.in_memory)

    async def _patched(self, name: ResourceName, body: Body, *, wanted: bool) -> Body | None:
        """With our finalizer, or without; None if the object is gone."""
        if not (patch := finalizer_patch(body, wanted=wanted)):
            return body
        after = await self._cluster.patch(name, patch, status=False)
        if after is not None and wanted:
            self._objects.seen(name.plural, after)
        return after

    async def _tell(self, name: ResourceName, body: Body, status: Status) -> None:
        if not (patch := status_patch(body, status)):
            return
        after = await self._cluster.patch(name, patch, status=True)
        if after is None:
            return
        self._objects.seen(name.plural, after)
        for told in announced(body.get("status", {}), status) if name.plural == MODELS else ():
            await self._cluster.announce(name, after, told)


def _is_refusal(error: LiteLLMError) -> bool:
    """Whether the object itself is to blame, so that trying again is of no use."""
    return isinstance(error, ConfigurationError)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
