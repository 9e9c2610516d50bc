"""Aliases: switched from one model to another once that one is served, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import Conflict, Corrupt, ModelNotFound
from lite_llm.contracts.keyspace import AliasKey, key_of
from lite_llm.dispatch.loads import Loads
from lite_llm.metastore import Absent, AtRevision, Put, Store
from lite_llm.placement import ClusterView, Observed
from lite_llm.placement.aliases import (
    begin_rollback,
    begin_switch,
    finish_switch,
    is_ready,
    resolve,
)
from lite_llm.proto.v1.model_pb2 import Alias
from lite_llm.wire import dumps, loads, ref_from_proto, ref_to_proto

RETRY_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Aliases:
    """Every orchestrator may begin a switch, and each sees to it that it ends: by swap."""

    def __init__(self, store: Store, views: Observed[ClusterView], loads: Loads) -> None:
        self._store = store
        self._views = views
        self._loads = loads
        self._tasks: dict[ModelRef, asyncio.Task[None]] = {}

    async def switch(self, name: ModelRef, target: ModelRef) -> AsyncGenerator[Alias]:
        """Have ``target`` answer to ``name`` once agents serve it; tells each step, ends with the
        last. It goes on when nobody listens any more."""
        view = self._views.value
        _check_declared(view, target)
        if name in view.models:
            raise Conflict(
                f"{name} is a model's own name", where="ref", remedy="choose another name"
            )

        def begin(alias: Alias) -> None:
            if not alias.HasField("target") and (declared := resolve(view, name)) != name:
                alias.target.CopyFrom(ref_to_proto(declared))  # it answers until then
            begin_switch(alias, target, time.time())

        async for alias in self._followed(name, begin):
            yield alias

    async def rollback(self, name: ModelRef) -> AsyncGenerator[Alias]:
        """Back to the model before, as :meth:`switch`."""
        view = self._views.value
        if (alias := view.aliases.get(name)) is None:
            raise _unknown(name)
        if alias.HasField("previous") and not alias.HasField("next"):
            _check_declared(view, ref_from_proto(alias.previous))
        async for alias in self._followed(name, lambda alias: begin_rollback(alias, time.time())):
            yield alias

    async def delete(self, name: ModelRef) -> None:
        """:class:`ModelNotFound` if there is no such alias."""
        if not await self._store.delete(key_of(AliasKey(name))):
            raise _unknown(name)

    async def complete(self) -> None:
        """Bring every switch to its end, for as long as this runs."""
        async with aclosing(self._views.changes()) as changes:
            async for view in changes:
                for name, alias in view.aliases.items():
                    if alias.HasField("next") and name not in self._tasks:
                        task = asyncio.create_task(self._bring(name), name=f"switch {name}")
                        self._tasks[name] = task
                        task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: ModelRef, _: asyncio.Task[None]) -> None:
        del self._tasks[name]

    async def close(self) -> None:
        """Leave what is under way to others."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _followed(
        self, name: ModelRef, change: Callable[[Alias], None]
    ) -> AsyncGenerator[Alias]:
        revision = await self._change(name, change)
        known: Alias | None = None
        async with aclosing(self._views.changes()) as changes:
            async for view in changes:
                if view.revision < revision:
                    continue
                if (alias := view.aliases.get(name)) is None:
                    raise _unknown(name)
                if alias is not known:
                    yield alias
                if not alias.HasField("next"):
                    return
                known = alias

    async def _bring(self, name: ModelRef) -> None:
        while (alias := self._views.value.aliases.get(name)) and alias.HasField("next"):
            try:
                await self._step(name, alias, ref_from_proto(alias.next))
            except LiteLLMError as error:
                log.warning("switch delayed", model=str(name), error=str(error))
                await self._tell(
                    name, alias, f"{ref_from_proto(alias.next)} does not load: {error}"
                )
                await asyncio.sleep(RETRY_SECONDS)

    async def _step(self, name: ModelRef, alias: Alias, target: ModelRef) -> None:
        view = self._views.value
        if target in view.models and is_ready(view, target):
            now = time.time()

            def finish(stored: Alias) -> bool | None:
                if stored.next != alias.next:
                    return False  # withdrawn meanwhile, or finished by another
                finish_switch(stored, now)
                return None

            await self._change(name, finish)
            # Also where it was no longer what the view shows.
            await self._views.wait_until(lambda new: new.aliases.get(name) is not alias or None)
            log.info("alias switched", model=str(name), reason=f"{target} is served")
            return
        if target in view.models:
            async with aclosing(self._loads.progress(target)) as steps:
                async for progress in steps:
                    if self._views.value.aliases.get(name) is not alias:
                        return  # the load goes on by itself
                    del progress
        # Enough agents, or another decision.
        await self._views.wait_until(
            lambda new: (
                new.aliases.get(name) is not alias
                or (target in new.models and is_ready(new, target))
                or None
            )
        )

    async def _tell(self, name: ModelRef, alias: Alias, reason: str) -> None:
        def change(stored: Alias) -> bool | None:
            if stored.next != alias.next or stored.reason == reason:
                return False
            stored.reason = reason
            return None

        with suppress(LiteLLMError):  # the metadata store, which is asked again soon
            await self._change(name, change)

    async def _change(self, name: ModelRef, change: Callable[[Alias], bool | None]) -> int:
        """By compare-and-swap; the store's revision from which on it shows. False: no change."""
        key = key_of(AliasKey(name))
        while True:
            entry = await self._store.get(key)
            alias = Alias(ref=ref_to_proto(name))
            if entry is not None:
                with suppress(Corrupt):  # it counts as absent, as in the view
                    alias = loads(entry.value, Alias, where=key)
            if change(alias) is False:
                return entry.mod_revision if entry else 0
            unchanged = AtRevision(key, entry.mod_revision) if entry else Absent(key)
            result = await self._store.transact(when=[unchanged], then=[Put(key, dumps(alias))])
            if result.succeeded:
                return result.revision


def _check_declared(view: ClusterView, model: ModelRef) -> None:
    if model not in view.models:
        raise ModelNotFound(f"the model {model} does not exist", where="target")


def _unknown(name: ModelRef) -> ModelNotFound:
    return ModelNotFound(f"there is no alias {name}", where="ref")


@asynccontextmanager
async def switching(
    store: Store, views: Observed[ClusterView], loads: Loads
) -> AsyncIterator[Aliases]:
    """Aliases whose switches come to their ends while the block runs."""
    aliases = Aliases(store, views, loads)
    completing = asyncio.create_task(aliases.complete(), name="switching")
    try:
        yield aliases
    finally:
        completing.cancel()
        await asyncio.wait([completing])
        await aliases.close()
