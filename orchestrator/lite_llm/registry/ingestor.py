"""One orchestrator at a time brings in what models name, and writes down where it lies then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import Corrupt, InvalidName
from lite_llm.contracts.keyspace import (
    INGESTIONS,
    MODELS,
    IngestionKey,
    LeaderKey,
    ModelKey,
    key_of,
    parse_key,
)
from lite_llm.metastore import Store, leading
from lite_llm.metastore.election import Leadership
from lite_llm.metastore.store import Deleted, Entry, Event, Snapshot, Written
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.registry.job import Job
from lite_llm.registry.ledger import Ledger
from lite_llm.registry.scratch import clear_scratch, collect_scratch
from lite_llm.registry.settings import RegistrySettings
from lite_llm.wire import loads

ROLE = "ingestion"
NATIVE = ("", "native")
RETRY_SECONDS = 1.0  # after the metadata store failed us

log = structlog.get_logger(__name__)


@asynccontextmanager
async def ingesting(store: Store, settings: RegistrySettings, name: str) -> AsyncIterator[None]:
    """Bring models in while the block runs, whenever this orchestrator, ``name``, is elected."""
    tasks = [
        asyncio.create_task(_keep(store, settings, name), name="ingestion"),
        asyncio.create_task(_tidy(store, settings.scratch), name="scratch of ingestion"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _keep(store: Store, settings: RegistrySettings, name: str) -> None:
    while True:
        try:
            async with leading(
                store, key_of(LeaderKey(ROLE)), name.encode(), ttl_seconds=settings.lease_seconds
            ) as leadership:
                await _while_leading(store, settings, name, leadership)
        except LiteLLMError as error:
            log.warning("ingestion interrupted", error=str(error))
        except Exception:  # an ingestion that stands still in silence would be worse
            log.exception("ingestion interrupted")
        await asyncio.sleep(RETRY_SECONDS)


async def _tidy(store: Store, scratch: Path) -> None:
    """Whoever leads: what this machine holds of models that are gone is of no use to anybody."""
    while True:
        try:
            async with store.watch(MODELS) as events:
                async for event in events:
                    match event:
                        case Snapshot(entries):
                            models = {ref for entry in entries if (ref := _model(entry.key))}
                            await asyncio.to_thread(collect_scratch, scratch, models)
                        case Deleted(key) if ref := _model(key):
                            await asyncio.to_thread(clear_scratch, scratch, ref)
        except LiteLLMError as error:
            log.warning("scratch not tidied", error=str(error))
        except Exception:  # as above
            log.exception("scratch not tidied")
        await asyncio.sleep(RETRY_SECONDS)


async def _while_leading(
    store: Store, settings: RegistrySettings, name: str, leadership: Leadership
) -> None:
    ingestor = _Ingestor(store, Ledger(store, leadership, name), settings)
    work = asyncio.create_task(ingestor.follow())
    lost = asyncio.create_task(leadership.wait_lost())
    try:
        await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, lost):
            task.cancel()
        await asyncio.wait({work, lost})
        await ingestor.stop()


class _Ingestor:
    """A task for each model that there is something to bring in for."""

    def __init__(self, store: Store, ledger: Ledger, settings: RegistrySettings) -> None:
        self._store = store
        self._ledger = ledger
        self._settings = settings
        self._turns = asyncio.Semaphore(settings.jobs)
        self._tasks: dict[ModelRef, tuple[object, asyncio.Task[None]]] = {}

    async def follow(self) -> None:
        """Every model, and each change; returns when the watch ends."""
        async with self._store.watch(MODELS) as events:
            async for event in events:
                await self._apply(event)

    async def stop(self) -> None:
        """End what runs; it goes on where it was, here or elsewhere."""
        for ref in list(self._tasks):
            await self._end(ref)

    async def _apply(self, event: Event) -> None:
        match event:
            case Snapshot(entries):
                seen = {ref: entry for entry in entries if (ref := _model(entry.key))}
                for ref in self._tasks.keys() - seen.keys():
                    await self._end(ref)
                for ref, entry in seen.items():
                    await self._begin(ref, entry)
                await self._forget_all_but(seen)
            case Written(entry) if ref := _model(entry.key):
                await self._begin(ref, entry)
            case Deleted(key) if ref := _model(key):
                await self._end(ref)
                await self._forget(ref)

    async def _forget_all_but(self, seen: Collection[ModelRef]) -> None:
        """What was deleted while nobody led."""
        for entry in (await self._store.list_prefix(INGESTIONS)).entries:
            if (ref := _model(entry.key)) and ref not in seen:
                await self._forget(ref)

    async def _forget(self, ref: ModelRef) -> None:
        await asyncio.to_thread(clear_scratch, self._settings.scratch, ref)
        await self._ledger.forget(key_of(IngestionKey(ref)))

    async def _begin(self, ref: ModelRef, entry: Entry) -> None:
        try:
            spec = loads(entry.value, ModelSpec, where=entry.key)
        except Corrupt as error:
            log.warning("malformed value ignored", key=entry.key, error=error.message)
            return
        told = spec.backend, spec.source
        if ref in self._tasks and self._tasks[ref][0] == told:
            return  # something else of the model changed
        await self._end(ref)
        if spec.backend in NATIVE and not spec.source.uri.lower().startswith("file:"):
            task = asyncio.create_task(self._bring(ref, spec.source), name=f"ingestion of {ref}")
            self._tasks[ref] = told, task

    async def _end(self, ref: ModelRef) -> None:
        if ref in self._tasks:
            _, task = self._tasks[ref]
            task.cancel()
            await asyncio.wait([task])
            del self._tasks[ref]  # not before: who stops meanwhile waits for it, too

    async def _bring(self, ref: ModelRef, source: ModelSource) -> None:
        """Until it is there, whatever becomes of the metadata store meanwhile."""
        while True:
            try:
                if await self._is_there(ref, source):
                    return
            except LiteLLMError as error:
                log.warning("ingestion interrupted", model=str(ref), error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_there(self, ref: ModelRef, source: ModelSource) -> bool:
        """After an attempt if need be; each failure is waited out longer than the last."""
        record = await self._ledger.record_of(ref, source)
        if record.is_done:
            # By another, maybe, with our own half of it still here.
            await asyncio.to_thread(clear_scratch, self._settings.scratch, ref)
            return True
        await asyncio.sleep(min(record.seconds_to_wait, self._settings.longest_retry_seconds))
        try:
            async with self._turns:
                await Job(ref, source, self._settings, record).run()
        except LiteLLMError as error:
            log.warning("ingestion failed", model=str(ref), error=str(error))
            await record.failed(error, self._settings.retry_seconds)
            return False
        except Exception as error:  # of one model: the others go on
            log.exception("ingestion failed", model=str(ref))
            await record.failed(error, self._settings.retry_seconds)
            return False
        log.info("ingested", model=str(ref), reason=record.value.reason)
        return True


def _model(key: str) -> ModelRef | None:
    try:
        parsed = parse_key(key)
    except InvalidName:
        return None
    return parsed.model if isinstance(parsed, ModelKey | IngestionKey) else None
