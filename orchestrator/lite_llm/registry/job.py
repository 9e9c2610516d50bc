"""One model from its source into our stores: fetched once, converted, put there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from lite_llm.checkpoint import INDEX_NAME, MAJOR, MINOR
from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.registry.conversion import convert
from lite_llm.registry.fetching import fetch
from lite_llm.registry.ledger import Record
from lite_llm.registry.publishing import publish, published_index
from lite_llm.registry.scratch import NAME_LENGTH, clear_scratch, scratch_of
from lite_llm.registry.settings import RegistrySettings
from lite_llm.stores import Listing, LocalSource, Origin, list_checkpoint, open_source

log = structlog.get_logger(__name__)

TELL_SECONDS = 0.5  # between two looks at how far a phase is


class Job:
    """Goes on where an earlier one on this machine was cut, and does nothing twice."""

    def __init__(
        self, model: ModelRef, source: ModelSource, settings: RegistrySettings, record: Record
    ) -> None:
        self._model = model
        self._source = source
        self._settings = settings
        self._record = record
        self._done = 0

    async def run(self) -> None:
        """Raises what any of its phases does."""
        uri = self._source.uri.rstrip("/")
        if self._source.revision and uri.startswith("hf://"):
            uri += f"@{self._source.revision}"
        source = await open_source(uri, options=self._settings.options_for(uri))
        if isinstance(source, LocalSource):
            raise InvalidRequest(
                f"{uri} is a directory of one machine",
                where="source",
                remedy="name a store or a hub, or let agents load it themselves",
            )
        listing = await list_checkpoint(source, pickles=True)
        self._record.value.revision = listing.digest
        if any(file.name == INDEX_NAME for file in listing.files):
            await self._finish(listing.digest, [uri], f"{uri} is served as it is")
            return
        identity = f"{uri} {listing.digest} {MAJOR}.{MINOR}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:NAME_LENGTH]
        places = [f"{store.rstrip('/')}/{self._model}/{name}" for store in self._settings.stores]
        await asyncio.to_thread(clear_scratch, self._settings.scratch, self._model, keep=name)
        scratch = scratch_of(self._settings.scratch, self._model, name)
        digest, there = await self._found(places)
        # One that died between two stores left its work here, and makes up for the second.
        if there and (len(there) == len(places) or not scratch.exists()):
            await self._finish(digest, there, f"found at {there[0]}")
            return
        digest, there = await self._bring(source, listing, scratch, places)
        await self._finish(digest, there, f"ingested from {uri}")

    async def _finish(self, digest: str, there: list[str], reason: str) -> None:
        await asyncio.to_thread(clear_scratch, self._settings.scratch, self._model)
        await self._record.finished(digest, there, reason)

    async def _found(self, places: list[str]) -> tuple[str, list[str]]:
        """The digest of the checkpoint at the first place, and where else it lies."""
        index = await published_index(places[0], self._settings.options_for(places[0]))
        if index is None:
            return "", []
        there = places[:1]
        for place in places[1:]:
            try:
                if await published_index(place, self._settings.options_for(place)) == index:
                    there.append(place)
            except LiteLLMError as error:
                log.warning("no copy", model=str(self._model), where=place, error=str(error))
        return hashlib.sha256(index).hexdigest(), there

    async def _bring(
        self, origin: Origin, listing: Listing, scratch: Path, places: list[str]
    ) -> tuple[str, list[str]]:
        source, checkpoint = scratch / "source", scratch / "checkpoint"
        what = f"fetching {{}} of {size(listing.num_bytes)} from {origin.uri}"
        async with self._phase(
            model_pb2.INGESTION_STATE_FETCHING, what, listing.num_bytes
        ) as progress:
            await fetch(origin, listing, source, progress)
        async with self._phase(
            model_pb2.INGESTION_STATE_CONVERTING, "converting {}", listing.num_bytes
        ) as progress:
            digest = await convert(source, checkpoint, lambda done, _: progress(done))
        there = []
        for place in places:
            try:
                async with self._phase(
                    model_pb2.INGESTION_STATE_PUBLISHING,
                    f"uploading {{}} to {place}",
                    listing.num_bytes,
                ) as progress:
                    options = self._settings.options_for(place)
                    await publish(checkpoint, place, options, progress)
            except LiteLLMError as error:
                if place == places[0]:
                    raise
                log.warning("no copy", model=str(self._model), where=place, error=str(error))
            else:
                there.append(place)
        return digest, there

    @asynccontextmanager
    async def _phase(
        self, state: model_pb2.IngestionState.ValueType, words: str, total_bytes: int
    ) -> AsyncIterator[Callable[[int], None]]:
        """Tells how far it is while the block runs; ``{}`` in ``words`` is the bytes done."""
        self._done = 0
        await self._record.entered(state, words.format(size(0)), total_bytes)

        def progress(done_bytes: int) -> None:
            self._done = done_bytes

        telling = asyncio.create_task(self._tell(words))
        try:
            yield progress
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _tell(self, words: str) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            try:
                await self._record.progressed(self._done, words.format(size(self._done)))
            except LiteLLMError as error:  # the next phase's beginning will say so too
                log.warning("progress not written", model=str(self._model), error=str(error))


def size(num_bytes: float) -> str:
    """``3.1 GB``: for words."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"
