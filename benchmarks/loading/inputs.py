"""Checkpoints of a Llama-like and a mixture-of-experts shape, in every contestant's format."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import xxhash

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, FileRecord, Manifest, Span, TensorRecord
from lite_llm.tiers.page_cache import is_cached

CHUNK = 1 << 20
PAGE = 4096
SAFETENSORS, TORCH, TENSORIZER = "model.safetensors", "model.pt", "model.tensors"
EXPERT_BYTES = 3 * 2048 * 1632 * 2
"""Of one expert of the mixture: 20 MB."""

_EXPERT = re.compile(r"layers\.(\d+)\.experts\.(\d+)\.")
_ATTENTION = {
    "q_proj": (2048, 2048), "k_proj": (512, 2048), "v_proj": (512, 2048), "o_proj": (2048, 2048),
    "norm": (2048,),
}  # fmt: skip
_DENSE = {"gate_proj": (5632, 2048), "up_proj": (5632, 2048), "down_proj": (2048, 5632)}
_SPARSE = {"gate_proj": (1632, 2048), "up_proj": (1632, 2048), "down_proj": (2048, 1632)}


def write_checkpoint(
    directory: Path, num_bytes: int, *, experts: int = 0, for_peers: bool = True
) -> None:
    """At least ``num_bytes`` of random bfloat16 in layers; with ``experts`` each, a mixture.

    ``for_peers`` also in the formats of those that can't read safetensors.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    generator = np.random.default_rng(1)
    left = num_bytes

    def add(name: str, shape: tuple[int, ...]) -> None:
        nonlocal left
        values = generator.integers(0, 255, size=(*shape, 2), dtype=np.uint8)
        tensors[name] = torch.from_numpy(values).view(torch.bfloat16).squeeze(-1)
        left -= tensors[name].nbytes

    add("model.embed_tokens.weight", (16_000, 2048))
    layer = 0
    while left > 0:
        for part, shape in _ATTENTION.items():
            add(f"model.layers.{layer}.{part}.weight", shape)
        for expert in range(experts):
            for part, shape in _SPARSE.items():
                add(f"model.layers.{layer}.experts.{expert}.{part}.weight", shape)
        if not experts:
            for part, shape in _DENSE.items():
                add(f"model.layers.{layer}.{part}.weight", shape)
        layer += 1
    save_file(tensors, directory / SAFETENSORS)
    if for_peers:
        torch.save(tensors, directory / TORCH)
    if for_peers and importlib.util.find_spec("tensorizer"):
        from tensorizer import TensorSerializer  # type: ignore[import-not-found]  # a peer

        serializer = TensorSerializer(str(directory / TENSORIZER))
        serializer.write_state_dict(tensors)
        serializer.close()
    os.sync()
    manifest = manifest_of(directory / SAFETENSORS)
    (directory / "manifest.pickle").write_bytes(pickle.dumps(manifest))


def manifest_of(path: Path) -> Manifest:
    """From the header, with the checksums that a converted checkpoint would have."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        file.seek(0)
        sums = []
        while chunk := file.read(CHUNK):
            sums.append(xxhash.xxh3_64_intdigest(chunk))
    record = FileRecord(
        path.name,
        path.stat().st_size,
        sha256="0" * 64,
        chunk_bytes=CHUNK,
        chunk_checksums=tuple(sums),
    )
    dense: list[TensorRecord] = []
    sparse: dict[ExpertKey, list[TensorRecord]] = {}
    for name, at in header.items():
        if name == "__metadata__":
            continue
        start, end = at["data_offsets"]
        span = Span(path.name, 8 + length + start, end - start)
        tensor = TensorRecord(name, span, tuple(at["shape"]), at["dtype"])
        if match := _EXPERT.search(name):
            key = ExpertKey(int(match[1]), 0, 0, int(match[2]))
            sparse.setdefault(key, []).append(tensor)
        else:
            dense.append(tensor)
    return Manifest(
        model="bench",
        architecture={},
        files=(record,),
        tensors=tuple(dense),
        experts=tuple(ExpertRecord(key, tuple(parts)) for key, parts in sorted(sparse.items())),
    )


def manifest_in(directory: Path) -> Manifest:
    """What :func:`write_checkpoint` left: making it anew would warm the page cache."""
    loaded = pickle.loads((directory / "manifest.pickle").read_bytes())
    assert isinstance(loaded, Manifest)
    return loaded


def chill(directory: Path) -> None:
    """Push the files out of the page cache, and see that they are gone."""
    os.sync()
    for path in _files(directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            assert not is_cached(descriptor, path.stat().st_size // 2, PAGE), f"{path} is cached"
        finally:
            os.close(descriptor)


def warm_up(path: Path) -> None:
    """Read a file once, through the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(8 << 20):
            pass


def _files(directory: Path) -> list[Path]:
    return [
        path for name in (SAFETENSORS, TORCH, TENSORIZER) if (path := directory / name).exists()
    ]
