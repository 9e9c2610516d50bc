"""A small checkpoint with two files, three layers and experts, and the tiers to load it with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import xxhash

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, FileRecord, Manifest, Span, TensorRecord
from lite_llm.tiers import Arena, DiskReader, HostMemory, HostTier, Loader

CHUNK = 64 << 10


@dataclass
class Checkpoint:
    """Random bytes with a manifest; ``content`` is by file, ``tensors`` and ``experts`` by name."""

    manifest: Manifest
    content: dict[str, bytes]

    def bytes_of(self, span: Span) -> bytes:
        return self.content[span.file][span.offset : span.end]

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.content.items():
            (directory / name).write_bytes(content)
        return directory


@dataclass
class _Writer:
    file: str
    data: bytearray = field(default_factory=bytearray)

    def add(self, name: str, num_bytes: int) -> TensorRecord:
        self.data += bytes(-len(self.data) % 4096)
        span = Span(self.file, len(self.data), num_bytes)
        self.data += os.urandom(num_bytes)
        return TensorRecord(name, span, (num_bytes,), "U8")

    def record(self, *, checked: bool, digested: bool) -> FileRecord:
        sums = [
            xxhash.xxh3_64_intdigest(self.data[at : at + CHUNK])
            for at in range(0, len(self.data), CHUNK)
        ]
        return FileRecord(
            self.file,
            len(self.data),
            sha256=hashlib.sha256(self.data).hexdigest() if digested else "",
            chunk_bytes=CHUNK if checked else 0,
            chunk_checksums=tuple(sums) if checked else (),
        )


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    def make(
        *, layers: int = 3, checked: bool = True, digested: bool = True, experts: int = 4
    ) -> Checkpoint:
        dense, sparse = _Writer("dense.bin"), _Writer("experts.bin")
        tensors = [dense.add("model.embed_tokens.weight", 300_000)]
        tensors += [
            dense.add(f"model.layers.{layer}.{part}.weight", num_bytes)
            for layer in range(layers)
            for part, num_bytes in (("q_proj", 150_001), ("norm", 128), ("up_proj", 200_000))
        ]
        tensors += [dense.add("model.norm.weight", 128), dense.add("lm_head.weight", 300_000)]
        records = [
            ExpertRecord(
                ExpertKey(layer, 0, 0, expert),
                tuple(sparse.add(part, 30_000) for part in ("gate", "up", "down")),
            )
            for layer in range(layers)
            for expert in range(experts)
        ]
        writers = [dense, sparse] if experts else [dense]
        return Checkpoint(
            Manifest(
                model="tiny",
                architecture={},
                files=tuple(w.record(checked=checked, digested=digested) for w in writers),
                tensors=tuple(tensors),
                experts=tuple(records),
            ),
            {writer.file: bytes(writer.data) for writer in writers},
        )

    return make


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    return make_checkpoint()


@pytest.fixture
def host() -> Iterator[HostTier]:
    """8 MiB of host memory, found whole again after the test."""
    tier = HostTier(Arena("dram", HostMemory(8 << 20, lock=False)))
    yield tier
    tier.check()
    tier.clear()
    assert tier.arena.used_bytes == 0, "a load left something behind"
    tier.arena.close()


@pytest.fixture
def reader() -> Iterator[DiskReader]:
    reader = DiskReader(threads=2)
    yield reader
    reader.close()


@pytest.fixture(params=[True, False], ids=["mapped", "copied"])
def loader(host: HostTier, reader: DiskReader, request: pytest.FixtureRequest) -> Loader:
    """Files that were just written are in the page cache: served from there, and not."""
    return Loader(host, reader, map_cached=request.param)
