"""Makes the hostile files in this folder: ``python make.py [DIRECTORY]``.

Every index carries a valid checksum of its own, so that it is refused for what it says. Its records
lie in ``weights.bin`` of 16 KiB, which the tests put beside it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

Index = dict[str, Any]
NUM_BYTES = 16384

HEADER = {
    "format": {"major": 1, "minor": 0},
    "model": "victim",
    "architecture": {"model_type": "mixtral"},
    "tiers": [
        {"id": 0, "name": "hot", "parameter_budget": 128, "groups": 1, "experts_per_group": 2}
    ],
    "layouts": [[["gate.weight", "F32", [4, 8]], ["up.weight", "F32", [4, 8]]]],
    "extras": {},
}
RECORDS = [
    [["weights.bin", NUM_BYTES, hashlib.sha256(bytes(NUM_BYTES)).hexdigest(), 8192, "0" * 32]],
    [["embed", 0, 0, 4096, [32, 32], "F32"]],
    [[0, 0, 0, 0, 0, 0, 4096, 0], [0, 0, 0, 1, 1, 0, 8192, 0]],
]


def dumped(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def framed(header: bytes, records: bytes, extra: bytes = b"") -> bytes:
    content = b'"header":' + header + b',"records":' + records + extra + b"}"
    return b'{"checksum":"' + hashlib.sha256(content).hexdigest().encode() + b'",' + content


def changed(change: Callable[[Index, list[Any]], Any]) -> bytes:
    header, records = copy.deepcopy(HEADER), copy.deepcopy(RECORDS)
    change(header, records)
    return framed(dumped(header), dumped(records))


def put(target: Any, key: Any, value: Any) -> Any:
    target[key] = value
    return target


def rename(file: str, _header: Index, records: list[Any]) -> None:
    records[0][0][0] = file


def lengthen(_header: Index, records: list[Any]) -> None:
    records[0][0][1] = NUM_BYTES + 8192
    records[0][0][4] = "0" * 48


def repeat_empty_tensor(_header: Index, records: list[Any]) -> None:
    records[1] = [["embed", 0, 0, 0, [0], "F32"]] * 2


def indexes() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each hostile index; ``valid`` is the one they were made of."""
    valid = framed(dumped(HEADER), dumped(RECORDS))
    yield "valid", valid
    yield "empty", b""
    yield "truncated", valid[:-10]
    yield "not-json", framed(b"{nonsense", b"[]")
    yield "flipped-bit", valid.replace(b"victim", b"vicuim")
    yield "spaces", b"{ " + valid[1:]
    yield "another-member", framed(dumped(HEADER), dumped(RECORDS), b',"header":{}')
    yield "duplicate-header-key", framed(b'{"model":"a",' + dumped(HEADER)[1:], dumped(RECORDS))
    yield (
        "duplicate-nested-key",
        framed(dumped(HEADER).replace(b'{"model_type":', b'{"model_type":1,"model_type":'), b"[]"),
    )
    deep = b"[" * 5_000 + b"]" * 5_000
    yield "deep-architecture", framed(dumped(HEADER).replace(b'"mixtral"', deep), dumped(RECORDS))
    yield "deep-records", framed(dumped(HEADER), deep)
    yield "not-a-number", framed(dumped(HEADER).replace(b"128", b"NaN"), dumped(RECORDS))
    yield "bad-utf-8", framed(dumped(HEADER).replace(b"victim", b"\xff\xfe"), dumped(RECORDS))
    yield "huge-integer", framed(dumped(HEADER), dumped(RECORDS).replace(b"8192", b"9" * 5000))
    yield "major-2", changed(lambda h, r: put(h["format"], "major", 2))
    yield "no-format", changed(lambda h, r: h.pop("format"))
    yield "wrong-type", changed(lambda h, r: put(h, "tiers", {"a": 1}))
    for name, file in (
        ("traversal", "../weights.bin"),
        ("absolute", "/etc/passwd.bin"),
        ("folder", "a/weights.bin"),
        ("hidden-name", ".weights.bin"),
        ("nul-name", "weights\0.bin"),
        ("no-bin-name", "checkpoint.idx"),
    ):
        yield name, changed(partial(rename, file))
    yield "traversal-extra", changed(lambda h, r: put(h["extras"], "../../x", "0" * 64))
    yield "missing-file", changed(lambda h, r: put(r[0][0], 0, "other.bin"))
    yield "file-twice", changed(lambda h, r: r[0].append(r[0][0]))
    yield (
        "longer-file",
        changed(lambda h, r: (put(r[0][0], 1, NUM_BYTES + 8192), put(r[0][0], 4, "0" * 48))),
    )
    yield "few-checksums", changed(lambda h, r: put(r[0][0], 4, "0" * 16))
    yield "odd-checksums", changed(lambda h, r: put(r[0][0], 4, "g" * 32))
    yield "odd-sha256", changed(lambda h, r: put(r[0][0], 2, "0" * 63))
    yield "newline-sha256", changed(lambda h, r: put(r[0][0], 2, "0" * 64 + "\n"))
    yield "chunk-of-nothing", changed(lambda h, r: put(r[0][0], 3, 0))
    yield "chunk-of-everything", changed(lambda h, r: put(r[0][0], 3, 2**40))
    yield "tensor-overlap", changed(lambda h, r: r[1].append(["f", 0, 0, 4096, [32, 32], "F32"]))
    yield "expert-overlap", changed(lambda h, r: put(r[2][1], 6, 4096))
    yield "behind-the-end", changed(lambda h, r: put(r[1][0], 2, NUM_BYTES))
    yield "overflow", changed(lambda h, r: put(r[1][0], 2, 2**63 - 4096))
    yield "over-64-bits", changed(lambda h, r: put(r[1][0], 2, 2**64))
    yield "negative", changed(lambda h, r: put(r[1][0], 2, -4096))
    yield "misaligned", changed(lambda h, r: put(r[2][1], 6, 8193))
    yield "no-such-file", changed(lambda h, r: put(r[1][0], 1, 7))
    yield "no-such-layout", changed(lambda h, r: put(r[2][0], 7, 1))
    yield "wrong-dtype", changed(lambda h, r: put(r[1][0], 5, "F16"))
    yield "unknown-dtype", changed(lambda h, r: put(r[1][0], 5, "F128"))
    yield "wrong-shape", changed(lambda h, r: put(r[1][0], 4, [32, 33]))
    yield "huge-shape", changed(lambda h, r: put(r[1][0], 4, [2**62] * 16))
    yield "many-dimensions", changed(lambda h, r: put(r[1][0], 4, [1] * 10_000))
    yield "huge-layout", changed(lambda h, r: put(h["layouts"][0][0], 2, [2**62, 2**62]))
    yield "part-twice", changed(lambda h, r: put(h["layouts"][0][1], 0, "gate.weight"))
    yield (
        "tensor-twice",
        changed(lambda h, r: (put(r[1][0], 3, 0), put(r[1][0], 4, [0]), r[1].append(r[1][0]))),
    )
    yield "key-twice", changed(lambda h, r: put(r[2][1], 3, 0))
    yield "unsorted", changed(lambda h, r: r[2].reverse())
    yield "outside-its-tier", changed(lambda h, r: put(r[2][1], 3, 2))
    yield "no-such-tier", changed(lambda h, r: put(r[2][1], 1, 3))
    yield "over-budget", changed(lambda h, r: put(h["tiers"][0], "parameter_budget", 127))
    yield "tier-twice", changed(lambda h, r: h["tiers"].append(h["tiers"][0] | {"name": "b"}))
    yield "odd-tier", changed(lambda h, r: put(h["tiers"][0], "top_k_experts", 3))
    yield "odd-seed", changed(lambda h, r: put(h, "routing_seed", "0" * 31 + "g"))
    yield "odd-optimizer", changed(lambda h, r: put(h, "optimizer", ["adamw"]))
    yield "odd-placement", changed(lambda h, r: put(h["tiers"][0], "placement", "tepid"))


def headers() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each hostile safetensors file."""

    def file(header: bytes, num_bytes: int = 64) -> bytes:
        return struct.pack("<Q", len(header)) + header + bytes(num_bytes)

    def one(**fields: Any) -> bytes:
        entry = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | fields
        return dumped({"a": entry})

    half = b'{"dtype":"F32","shape":[8],"data_offsets":[%d,%d]}'
    yield "valid", file(one())
    yield "empty", b""
    yield "short", b"\x10\0\0"
    yield "absurd-length", struct.pack("<Q", 2**63) + one()
    yield "longer-than-file", struct.pack("<Q", 5000) + one()
    yield "not-json", file(b"{nonsense}")
    yield "deep", file(b'{"__metadata__":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    yield "duplicate-key", file(b'{"a":' + half % (0, 32) + b',"a":' + half % (32, 64) + b"}")
    yield (
        "escaped-duplicate-key",
        file(b'{"a":' + half % (0, 32) + b',"\\u0061":' + half % (0, 32) + b"}", 32),
    )
    yield "hole", file(b'{"a":' + half % (0, 32) + b',"b":' + half % (40, 72) + b"}", 72)
    yield "overlap", file(b'{"a":' + half % (0, 32) + b',"b":' + half % (16, 48) + b"}", 48)
    yield "reversed", file(one(data_offsets=[64, 0]))
    yield "truncated", file(one(), 60)
    yield "padded", file(one(), 80)
    yield "wrong-shape", file(one(shape=[4, 5]))
    yield "huge-shape", file(one(shape=[2**62] * 8))
    yield "negative", file(one(shape=[-4, -4]))
    yield "unknown-dtype", file(one(dtype="F128"))
    yield "unknown-field", file(one(surprise=1))
    yield "three-offsets", file(one(data_offsets=[0, 32, 64]))
    fused = one(shape=[2**40, 0], data_offsets=[0, 0])
    name = b"model.layers.0.mlp.experts.down_proj"
    yield "endless-experts", file(fused.replace(b'"a"', b'"' + name + b'"'), 0)
    yield "half-a-byte", file(one(dtype="F4", shape=[3], data_offsets=[0, 1]), 1)


def main(directory: Path) -> None:
    for name, data in indexes():
        (directory / f"{name}.idx").write_bytes(data)
    for name, data in headers():
        (directory / f"{name}.safetensors").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
