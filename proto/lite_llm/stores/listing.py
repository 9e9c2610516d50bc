"""What a distant checkpoint consists of: every file, its length, and what proves its bytes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from lite_llm.checkpoint import INDEX_NAME, SIGNATURE_NAME
from lite_llm.checkpoint.checks import manifest_of
from lite_llm.checkpoint.hugging_face import (
    CONFIG,
    EXTRAS,
    INDEX_SUFFIX,
    MAX_SHARD_INDEX_BYTES,
    MAX_SHARDS,
    PICKLE,
    SAFETENSORS,
)
from lite_llm.checkpoint.index import MAX_INDEX_BYTES, decode
from lite_llm.contracts.errors import Corrupt, Forbidden, ModelNotFound
from lite_llm.contracts.manifest import FileRecord
from lite_llm.stores.failures import ReadFailed
from lite_llm.stores.source import FileStatus, Origin, checked_parts

ASKED_AT_ONCE: Final = 8  # files; a store answers each within a round trip


class _ShardIndex(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A checkpoint, without any of its weights."""

    uri: str
    digest: str
    """SHA-256 of the checkpoint's index; of a Hugging Face directory, of what its source says of
    each file. Hexadecimal."""
    files: tuple[FileRecord, ...]
    """In order of name, small files and the index itself included."""
    identities: dict[str, str] = field(default_factory=dict)
    """What stands for the content of a file whose SHA-256 is not known (:class:`Source`)."""

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(record.num_bytes for record in self.files)

    def identity(self, record: FileRecord) -> str:
        """By which a disk tier knows the file again."""
        return record.sha256 or self.identities[record.name]

    def to_json(self) -> bytes:
        """The inverse of :meth:`from_json`."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Listing:
        """Raises :class:`Corrupt` for what is none."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"{where} is no listing: {error}", where=where) from error


async def list_checkpoint(source: Origin, *, pickles: bool = False) -> Listing:
    """The files of the checkpoint at ``source``: our own format's, or Hugging Face's.

    Where there are no safetensors, ``pickles`` will do, for those who convert. Raises
    :class:`ModelNotFound` where there is no checkpoint, and :class:`Corrupt`.
    """
    index = await _status_of(source, INDEX_NAME)
    if index is not None:
        return await _converted(source, index)
    return await _hugging_face(source, (SAFETENSORS, PICKLE) if pickles else (SAFETENSORS,))


async def _converted(source: Origin, index: FileStatus) -> Listing:
    where = f"{source.uri}/{INDEX_NAME}"
    data = await _small(source, INDEX_NAME, index, most=MAX_INDEX_BYTES)
    manifest = await asyncio.to_thread(lambda: manifest_of(*decode(data, where), where))
    digest = hashlib.sha256(data).hexdigest()
    beside = await _statuses(source, [*manifest.extras, SIGNATURE_NAME])
    if absent := manifest.extras.keys() - beside.keys():
        raise Corrupt(
            f"{source.uri} lacks {min(absent)}", where=source.uri, remedy="upload it again"
        )
    extras = [
        FileRecord(name, status.num_bytes, manifest.extras.get(name, ""))
        for name, status in beside.items()
    ]
    files = [*manifest.files, FileRecord(INDEX_NAME, len(data), digest), *extras]
    return Listing(
        uri=source.uri,
        digest=digest,
        files=tuple(sorted(files, key=lambda record: record.name)),
        identities={name: status.identity for name, status in beside.items()},
    )


async def _hugging_face(source: Origin, kinds: Sequence[str]) -> Listing:
    found = await _statuses(source, [CONFIG, *EXTRAS])
    for whole in kinds:
        if weights := await _weights(source, whole):
            break
    else:
        weights = {}
    if CONFIG not in found or not weights:
        raise ModelNotFound(
            f"{source.uri} holds neither {INDEX_NAME} nor {CONFIG} and {SAFETENSORS}",
            where="source.uri",
            remedy="name the directory of a checkpoint",
        )
    found |= weights
    names = sorted(found)
    told: Any = [[name, found[name].num_bytes, found[name].identity] for name in names]
    return Listing(
        uri=source.uri,
        digest=hashlib.sha256(msgspec.json.encode(told)).hexdigest(),
        files=tuple(FileRecord(name, found[name].num_bytes, found[name].sha256) for name in names),
        identities={name: found[name].identity for name in names},
    )


async def _weights(source: Origin, whole: str) -> dict[str, FileStatus]:
    """The file of that name, or the shards that its index names, with the index."""
    shard_index = whole + INDEX_SUFFIX
    found = await _statuses(source, [whole, shard_index])
    if shard_index not in found:
        return found
    found.pop(whole, None)
    data = await _small(source, shard_index, found[shard_index], most=MAX_SHARD_INDEX_BYTES)
    shards = _shards(data, Path(whole).suffix, f"{source.uri}/{shard_index}")
    statuses = await _statuses(source, shards)
    if absent := set(shards) - statuses.keys():
        raise Corrupt(
            f"{source.uri} lacks {min(absent)}", where=source.uri, remedy="upload it again"
        )
    return found | statuses


def _shards(data: bytes, suffix: str, where: str) -> list[str]:
    try:
        names = set(msgspec.json.decode(data, type=_ShardIndex).weight_map.values())
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{where} can't be read: {error}", where=where) from error
    if not 0 < len(names) <= MAX_SHARDS:
        raise Corrupt(f"{where} names {len(names)} files", where=where)
    for name in names:  # whoever reads the fetched directory would refuse it, days later
        if "/" in name or name.startswith(".") or not name.endswith(suffix):
            raise Corrupt(
                f"{name[:80]!r} in {where} is no plain name of a {suffix} file", where=where
            )
    return sorted(map(checked_parts, names))


async def _statuses(source: Origin, names: list[str]) -> dict[str, FileStatus]:
    """Of those that exist and hold something."""
    turns = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(name: str) -> FileStatus | None:
        async with turns:
            return await _status_of(source, name)

    answers = await asyncio.gather(*(ask(name) for name in names))
    # Without the empty ones: there is nothing to bring, and a file of no bytes is like none.
    found = zip(names, answers, strict=True)
    return {name: status for name, status in found if status and status.num_bytes}


async def _status_of(source: Origin, name: str) -> FileStatus | None:
    try:
        return await source.status(name)
    except (ReadFailed, Forbidden):  # S3 forbids what is absent to those who may not list
        return None


async def _small(source: Origin, name: str, status: FileStatus, *, most: int) -> bytes:
    if status.num_bytes > most:
        raise Corrupt(
            f"{source.uri}/{name} has {status.num_bytes} bytes, more than {most}",
            where=f"{source.uri}/{name}",
        )
    target = bytearray(status.num_bytes)
    await source.read(name, 0, memoryview(target))
    return bytes(target)
