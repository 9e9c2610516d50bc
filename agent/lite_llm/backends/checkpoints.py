"""What has to be known of a checkpoint before a foreign server opens it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lite_llm.contracts.errors import Corrupt, InvalidRequest, ModelNotFound

GGUF = ".gguf"
WEIGHTS = ("*.safetensors", f"*{GGUF}", "*.bin")


def directory_of(source: Path) -> Path:
    """A checkpoint in Hugging Face's layout; :class:`InvalidRequest` for anything else."""
    if not (source / "config.json").is_file():
        raise _wrong(source, "has no config.json", "give a directory in Hugging Face's layout")
    return source


def gguf_of(source: Path) -> Path:
    """The one GGUF file that is ``source`` or lies in it, or the first part of a split one."""
    if source.is_file() and source.suffix == GGUF:
        return source
    found = sorted(source.glob(f"*{GGUF}")) if source.is_dir() else []
    parts = [path for path in found if "-of-" in path.stem]
    if len(found) == 1 or (parts and found == parts and len(_stems(parts)) == 1):
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise _wrong(source, f"has not one GGUF file but {names}", "name the file")


def _stems(parts: list[Path]) -> set[str]:
    # model-00001-of-00003.gguf: as llama.cpp names the parts that it splits a file into.
    return {path.stem.rsplit("-", 3)[0] for path in parts}


def weight_bytes(source: Path) -> int:
    """Of all files with weights; :class:`ModelNotFound` where there is nothing at all."""
    if source.is_file():
        return source.stat().st_size
    if not source.is_dir():
        raise ModelNotFound(f"there is no checkpoint at {source}", where=str(source))
    return sum(path.stat().st_size for kind in WEIGHTS for path in source.glob(kind))


def context_of(source: Path) -> int | None:
    """Positions that the model was made for, by its ``config.json``; None if that doesn't tell."""
    path = directory_of(source) / "config.json"
    try:
        config: Any = json.loads(path.read_bytes())
        told = config.get("text_config", config).get("max_position_embeddings")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise Corrupt(f"{path} can't be read: {error}", where=str(path)) from error
    return told if isinstance(told, int) and told > 0 else None


def _wrong(source: Path, what: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{source} {what}", where="source.uri", remedy=remedy)
