"""What a model's source holds: the files of one checkpoint, and what names their content."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import msgspec
import obstore
from obstore.store import ObjectStore

from lite_llm.checkpoint import INDEX_NAME
from lite_llm.contracts.errors import Corrupt, Forbidden, ModelNotFound, StoreUnavailable
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.registry.buckets import FAULTS, failure, open_bucket

SHARDS = "model.safetensors.index.json"

_SMALL = re.compile(r"[\w.-]+\.(json|jinja|txt|model|tiktoken|sig)", re.ASCII)
_WEIGHTS = re.compile(r"[\w.-]+\.(safetensors|idx|bin)", re.ASCII)
_PICKLE = re.compile(r"pytorch_model[\w.-]*\.bin", re.ASCII)
_MAX_INDEX_BYTES = 256 << 20

# A plain HTTP server lists nothing, so these are asked for; the indexes name the others.
_KNOWN = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    SHARDS,
    "model.safetensors",
)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source."""

    name: str
    num_bytes: int
    tag: str
    """Another one means another content."""
    sha256: str = ""
    """Where the source tells it."""


@dataclass(frozen=True)
class Origin:
    """The files of a source as they were when it was opened."""

    uri: str
    store: ObjectStore
    files: tuple[RemoteFile, ...]
    commit: str = ""
    """Of a source that has commits."""

    @property
    def is_ours(self) -> bool:
        """It is in our own format already."""
        return any(file.name == INDEX_NAME for file in self.files)

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)

    @cached_property
    def revision(self) -> str:
        """The commit, or a hash that changes with any file."""
        lines = (f"{file.name} {file.num_bytes} {file.tag}" for file in self.files)
        return self.commit or hashlib.sha256("\n".join(lines).encode()).hexdigest()


async def open_origin(source: ModelSource, options: Mapping[str, str]) -> Origin:
    """List ``source``; a branch is looked up now and does not move under the download.

    Raises :class:`ModelNotFound` where there is no checkpoint, and what :func:`open_bucket` does.
    """
    uri = source.uri.rstrip("/")
    match urlsplit(uri).scheme:
        case "hf":
            return await _hub(uri, source.revision, options)
        case "http" | "https":
            store = open_bucket(uri, options)
            files = [file async for file in _probed(uri, store)]
        case _:
            store = open_bucket(uri, options)
            files = [file async for file in _listed(uri, store)]
    return Origin(uri, store, _needed(uri, files))


def _needed(uri: str, files: list[RemoteFile]) -> tuple[RemoteFile, ...]:
    """What a conversion reads: safetensors rather than pickles, and the small files beside them."""
    names = {file.name for file in files}
    if INDEX_NAME in names:
        return tuple(sorted(files, key=lambda file: file.name))
    safe = any(name.endswith(".safetensors") for name in names)
    chosen = [
        file
        for file in files
        if _SMALL.fullmatch(file.name)
        or (file.name.endswith(".safetensors") if safe else _PICKLE.fullmatch(file.name))
    ]
    if "config.json" not in names or not any(_WEIGHTS.fullmatch(file.name) for file in chosen):
        raise ModelNotFound(
            f"{uri} holds no checkpoint",
            where=uri,
            remedy=f"it needs {INDEX_NAME}, or config.json beside .safetensors files",
        )
    return tuple(sorted(chosen, key=lambda file: file.name))


async def _listed(uri: str, store: ObjectStore) -> AsyncIterator[RemoteFile]:
    try:
        async for metas in obstore.list(store):
            for meta in metas:
                if "/" not in meta["path"]:
                    yield _file(meta["path"], meta)
    except FAULTS as error:
        raise failure(uri, error) from error


async def _probed(uri: str, store: ObjectStore) -> AsyncIterator[RemoteFile]:
    """Files of a server that lists nothing."""
    found = {name: await _head(uri, store, name) for name in (INDEX_NAME, *_KNOWN)}
    for manifest, names in ((INDEX_NAME, _named_by_ours), (SHARDS, _named_by_shards)):
        if found[manifest] is not None:
            for name in names(await _small(uri, store, manifest), f"{uri}/{manifest}"):
                found[name] = await _head(uri, store, name)
                if found[name] is None:
                    raise ModelNotFound(
                        f"{uri} lacks {name}", where=f"{uri}/{manifest}", remedy="upload it again"
                    )
    for file in found.values():
        if file is not None:
            yield file


def _named_by_ours(text: bytes, where: str) -> list[str]:
    index = _parsed(text, where)
    return [str(file["name"]) for file in index["files"]] + sorted(index.get("extras", {}))


def _named_by_shards(text: bytes, where: str) -> list[str]:
    return sorted({str(name) for name in _parsed(text, where)["weight_map"].values()})


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"{where} is no JSON", where=where, remedy="upload it again") from error
    if not isinstance(value, dict) or not ({"files", "weight_map"} & value.keys()):
        raise Corrupt(f"{where} names no files", where=where, remedy="upload it again")
    return value


async def _head(uri: str, store: ObjectStore, name: str) -> RemoteFile | None:
    try:
        return _file(name, await obstore.head_async(store, name))
    except FileNotFoundError:
        return None
    except FAULTS as error:
        raise failure(f"{uri}/{name}", error) from error


async def _small(uri: str, store: ObjectStore, name: str) -> bytes:
    try:
        answer = await obstore.get_async(store, name)
        if answer.meta["size"] > _MAX_INDEX_BYTES:
            raise Corrupt(f"{uri}/{name} is too large for an index", where=f"{uri}/{name}")
        return bytes(await answer.bytes_async())
    except FAULTS as error:
        raise failure(f"{uri}/{name}", error) from error


def _file(name: str, meta: Mapping[str, Any]) -> RemoteFile:
    return RemoteFile(name, meta["size"], str(meta["e_tag"] or meta["last_modified"]))


async def _hub(uri: str, revision: str, options: Mapping[str, str]) -> Origin:
    # Importing the hub's client takes most of a second, which only its users should wait for.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    repository, _, tag = uri.removeprefix("hf://").partition("@")
    api = HfApi(endpoint=options.get("endpoint"), token=options.get("token"))
    wanted = revision or tag or None
    try:
        info = await asyncio.to_thread(
            api.model_info, repository, revision=wanted, files_metadata=True
        )
    except GatedRepoError as error:
        raise Forbidden(
            f"{repository} is gated", where=uri, remedy="accept its terms, and give a token"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub shows no {repository}", where=uri, remedy="check the name, or give a token"
        ) from error
    except Exception as error:  # of whatever HTTP library the hub's client is built on
        raise StoreUnavailable(f"the hub can't be asked for {repository}", where=uri) from error
    if info.sha is None:
        raise StoreUnavailable(f"the hub names no commit of {repository}", where=uri)
    files = [
        RemoteFile(one.rfilename, one.size or 0, info.sha, one.lfs.sha256 if one.lfs else "")
        for one in info.siblings or ()
        if "/" not in one.rfilename
    ]
    headers = {"authorization": f"Bearer {api.token}"} if api.token else {}
    store = open_bucket(f"{api.endpoint}/{repository}/resolve/{info.sha}", headers)
    return Origin(uri, store, _needed(uri, files), commit=info.sha)
