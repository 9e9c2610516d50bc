"""Models named on the command line, as declarations in the metadata store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from lite_llm.contracts import DEFAULT_NAMESPACE, LiteLLMError, ModelRef
from lite_llm.contracts.errors import Conflict, InvalidName, InvalidSettings, ModelNotFound
from lite_llm.contracts.identity import MAX_NAME_LENGTH
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Absent, AtRevision, Lease, Put, Store
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.wire import dumps, ref_to_proto

log = structlog.get_logger(__name__)


STORES = ("hf", "s3", "gs", "az", "http", "https")
"""Schemes of addresses that agents fetch from."""


@dataclass(frozen=True)
class Declaration:
    """Where a checkpoint is, and the name under which it is served."""

    model: ModelRef
    uri: str
    """``file://`` and a directory of this machine, or one of :data:`STORES`."""

    @classmethod
    def parse(cls, text: str) -> Declaration:
        """From a directory or an address, with or without ``NAME=`` before it.

        Raises :class:`ModelNotFound` if no checkpoint lies in the directory.
        """
        name, equals, path = text.partition("=")
        if not equals or "://" in name or Path(text).exists():
            name, path = "", text
        scheme, is_address, rest = path.partition("://")
        if is_address and scheme in STORES:
            last = rest.partition("@")[0].rstrip("/").rpartition("/")[2]
            return cls(ModelRef(DEFAULT_NAMESPACE, name or name_of(last)), path)
        directory = Path(path).expanduser().resolve()
        if not directory.is_dir():
            raise ModelNotFound(
                f"{path!r} is not a directory",
                where="--model",
                remedy="give the directory of a checkpoint",
            )
        if not any((directory / name).is_file() for name in ("config.json", "checkpoint.idx")):
            raise ModelNotFound(
                f"{path!r} has neither config.json nor checkpoint.idx",
                where="--model",
                remedy="give the directory of a checkpoint, Hugging Face's or a converted one",
            )
        return cls(ModelRef(DEFAULT_NAMESPACE, name or name_of(directory.name)), directory.as_uri())

    @property
    def directory(self) -> Path | None:
        """On this machine; None for what lies in a store."""
        parts = urlsplit(self.uri)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    def spec(self) -> ModelSpec:
        """What is written for others to serve."""
        return ModelSpec(ref=ref_to_proto(self.model), source=ModelSource(uri=self.uri))


def name_of(text: str) -> str:
    """A model name made of a directory's: ``Llama 3.1`` is served as ``llama-3.1``."""
    words = re.sub(r"[^a-z0-9.]+", "-", text.lower())
    labels = (label.strip("-") for label in words[:MAX_NAME_LENGTH].split("."))
    if name := ".".join(filter(None, labels)):
        return name
    raise InvalidName(f"no name can be made of {text!r}", where="--model", remedy="write NAME=DIR")


def parsed(texts: Iterable[str]) -> tuple[Declaration, ...]:
    """Every ``--model``; :class:`InvalidSettings` if two would have one name."""
    found: dict[ModelRef, Declaration] = {}
    for text in texts:
        declaration = Declaration.parse(text)
        if other := found.get(declaration.model):
            raise InvalidSettings(
                f"{declaration.uri} and {other.uri} are both {declaration.model.name}",
                where="--model",
                remedy="write NAME=DIR to name one of them otherwise",
            )
        found[declaration.model] = declaration
    return tuple(found.values())


@asynccontextmanager
async def declared(
    store: Store, declarations: Sequence[Declaration], *, lease_seconds: float = 9.0
) -> AsyncIterator[None]:
    """In the store while the block runs, and again after the store lost them.

    They go with a lease, so that a process that is killed leaves none behind. What somebody else
    declared there stays as it is; :class:`Conflict` if one of the names stands for something else.
    """
    ready = asyncio.Event()
    keeping = asyncio.create_task(_keep(store, declarations, lease_seconds, ready), name="declare")
    first = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait((keeping, first), return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            await keeping
        yield
    finally:
        first.cancel()
        keeping.cancel()
        await asyncio.wait((first, keeping))


async def _keep(
    store: Store, declarations: Sequence[Declaration], lease_seconds: float, ready: asyncio.Event
) -> None:
    while True:
        try:
            async with store.lease(lease_seconds) as lease:
                for declaration in declarations:
                    await _declare(store, declaration, lease)
                ready.set()
                await lease.wait_lost()
        except LiteLLMError as error:
            if not ready.is_set():
                raise
            log.warning("models not declared", error=str(error))
            await asyncio.sleep(lease_seconds / 3)


async def _declare(store: Store, declaration: Declaration, lease: Lease) -> None:
    key, value = key_of(ModelKey(declaration.model)), dumps(declaration.spec())
    found = await store.get(key)
    if found is not None and found.value != value:
        raise Conflict(
            f"{declaration.model} is declared already, and otherwise",
            where=key,
            remedy="write NAME=DIR to name yours otherwise",
        )
    if found is None or found.lease_id:  # the same under a lease may be ours from before an outage
        unchanged = AtRevision(key, found.mod_revision) if found else Absent(key)
        result = await store.transact(when=[unchanged], then=[Put(key, value, lease)])
        if not result.succeeded:
            await _declare(store, declaration, lease)
