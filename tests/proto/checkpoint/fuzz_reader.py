"""Coverage-guided fuzzing of everything that parses a stranger's bytes.

``python fuzz_reader.py CORPUS -max_total_time=60`` starts from the attacks and stops with an error
at the first exception that is not of our own tree. Arguments are libFuzzer's.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # has no types

with atheris.instrument_imports(include=["lite_llm.checkpoint"]):
    from lite_llm.checkpoint import INDEX_NAME, open_checkpoint
    from lite_llm.checkpoint.pickle_machine import PickleMachine, RefusedPickle

from lite_llm.contracts.errors import LiteLLMError

ATTACKS = Path(__file__).parent / "attacks"
INDEX, RAW_INDEX, HEADER, PICKLE, SHARDS, CONFIG = KINDS = range(6)
PREFIX_BYTES = len(b'{"checksum":"",') + 64


def seeds() -> dict[str, bytes]:
    """The attacks, each behind the byte that says what it attacks."""
    found = {}
    for path in sorted(ATTACKS.iterdir()):
        data = path.read_bytes()
        if path.suffix == ".idx":
            found[path.name] = bytes([INDEX]) + data[PREFIX_BYTES:]
        elif path.suffix == ".safetensors":
            found[path.name] = bytes([HEADER]) + data
    shards = b'{"metadata":{},"weight_map":{"a":"model.safetensors"}}'
    found["shards"] = bytes([SHARDS]) + shards
    found["config"] = bytes([CONFIG]) + b'{"model_type":"gpt_oss","text_config":{"hidden_size":4}}'
    found["pickle"] = bytes([PICKLE]) + b"\x80\x02}q\x00X\x01\x00\x00\x00a](K\x01\x88G12345678es."
    return found


def experts() -> bytes:
    """A safetensors file with fused experts: what a config decides about."""
    fields = '"dtype":"F32","shape":[2,4,4],"data_offsets":[%d,%d]'
    names = ("gate_up_proj", "down_proj")
    entries = (
        f'"model.layers.0.mlp.experts.{name}":{{{fields % (128 * at, 128 * at + 128)}}}'
        for at, name in enumerate(names)
    )
    header = ("{" + ",".join(entries) + "}").encode()
    return len(header).to_bytes(8, "little") + header + bytes(256)


def refuse(name: object) -> object:
    raise RefusedPickle(str(name))


def try_one(data: bytes) -> None:
    """Parse ``data`` as what its first byte says; only errors of ours may come."""
    kind, content = (data[0] % len(KINDS), data[1:]) if data else (INDEX, b"")
    if kind == PICKLE:
        try:
            PickleMachine(content, refuse, refuse).run()  # type: ignore[arg-type]  # never returns
        except RefusedPickle:
            return
    elif kind == HEADER:
        (DIRECTORY / "hf" / "model.safetensors").write_bytes(content)
        open_quietly(DIRECTORY / "hf")
    elif kind == SHARDS:
        (DIRECTORY / "shards" / "model.safetensors.index.json").write_bytes(content)
        open_quietly(DIRECTORY / "shards")
    elif kind == CONFIG:
        (DIRECTORY / "config" / "config.json").write_bytes(content)
        open_quietly(DIRECTORY / "config")
    else:
        if kind == INDEX:  # with a valid checksum, so that what lies behind it is reached
            digest = hashlib.sha256(content).hexdigest().encode()
            content = b'{"checksum":"' + digest + b'",' + content
        (DIRECTORY / "own" / INDEX_NAME).write_bytes(content)
        open_quietly(DIRECTORY / "own")


def open_quietly(directory: Path) -> None:
    try:
        open_checkpoint(directory).close()
    except LiteLLMError as error:
        refusal = error
    else:
        return
    assert refusal.where, "a refusal must say where"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        DIRECTORY = Path(scratch)
        for name in ("hf", "own", "shards", "config"):
            (DIRECTORY / name).mkdir()
        for name in ("hf", "shards"):
            (DIRECTORY / name / "config.json").write_text("{}")
        for name in ("shards", "config"):
            (DIRECTORY / name / "model.safetensors").write_bytes(experts())
        (DIRECTORY / "own" / "weights.bin").write_bytes(bytes(16384))
        corpus = Path(sys.argv[1])
        for seed_name, seed in seeds().items():
            (corpus / seed_name).write_bytes(seed)
        atheris.Setup(sys.argv, try_one)
        atheris.Fuzz()
