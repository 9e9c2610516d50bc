"""What a conversion will write, decided from headers alone: layout, manifest, and its identity."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import msgspec

from lite_llm.checkpoint.dtypes import FLOATS
from lite_llm.checkpoint.hugging_face import CONFIG, INDEX_SUFFIX, PICKLE, SAFETENSORS
from lite_llm.checkpoint.index import INDEX_NAME, MAJOR, MINOR
from lite_llm.checkpoint.layout import MAX_FILE_BYTES, Layout, Sized, SizedExpert, lay_out
from lite_llm.checkpoint.reader import Reader
from lite_llm.checkpoint.sizes import tensor_bytes
from lite_llm.checkpoint.strict_json import canonical
from lite_llm.checkpoint.tiering import Assignment, TierRules, assign
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.manifest import FileRecord, Manifest, TensorRecord
from lite_llm.trust import PrivateKey

KEPT_EXACT: Final = ("e_score_correction_bias", "scale")
"""In names of floats that no ``dtype`` changes: they steer the router or the scaling of others."""

_VERSION: Final = re.compile(r"[A-Za-z0-9][\w./-]{0,200}-v\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)

DTYPE_NAMES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""torch's names for what the ``dtype`` option takes, beside the short ones."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion changes; by default nothing but the layout."""

    dtype: str = ""
    """F32, F16 or BF16, also as torch names them: for all floats of 16 bits and more; empty keeps
    each as it is."""
    tiers: TierRules | None = None
    """Empty keeps the tiers of the source: all experts in one, for a Hugging Face directory."""
    model: str = ""
    """The model's name; empty takes the source's."""
    version: str = ""
    """``name-vMAJOR.MINOR.PATCH``; empty takes the source's."""
    key: PrivateKey | None = None
    """Signs the index."""
    max_file_bytes: int = MAX_FILE_BYTES
    """Of each ``.bin`` file; a larger record is refused."""

    def __post_init__(self) -> None:
        if self.dtype not in ("", *FLOATS, *DTYPE_NAMES):
            raise InvalidRequest(
                f"{self.dtype[:80]!r} is no dtype to convert to",
                where="dtype",
                remedy=f"choose from {', '.join(DTYPE_NAMES)}",
            )
        if self.version and not _VERSION.fullmatch(self.version):
            raise InvalidRequest(
                f"{self.version[:80]!r} is no version of a model",
                where="version",
                remedy="write it as name-v1.2.3",
            )

    @property
    def storage_dtype(self) -> str:
        """``dtype`` by its safetensors name."""
        return DTYPE_NAMES.get(self.dtype, self.dtype)


class Conversion:
    """One source with one set of options."""

    def __init__(self, reader: Reader, options: ConvertOptions) -> None:
        """Raises what :func:`assign` and :func:`lay_out` do."""
        self.reader = reader
        self.options = options
        self._source = reader.manifest
        self._assignment = _assignment(reader.manifest, options)

    @cached_property
    def layout(self) -> Layout:
        """Where every tensor goes."""

        def sized(record: TensorRecord) -> Sized:
            dtype = _target_dtype(record, self.options.storage_dtype)
            return Sized(record, dtype, tensor_bytes(record.shape, dtype))

        return lay_out(
            map(sized, self._source.tensors),
            (
                SizedExpert(expert, tuple(map(sized, expert.parts)))
                for expert in self._assignment.experts
            ),
            max_file_bytes=self.options.max_file_bytes,
        )

    @property
    def total_bytes(self) -> int:
        """Of all ``.bin`` files."""
        return sum(file.num_bytes for file in self.layout.files)

    def manifest(self, files: tuple[FileRecord, ...], extras: Mapping[str, str]) -> Manifest:
        """Of the new checkpoint, once its files and the SHA-256 of its small ones are known."""
        return replace(
            self._source,
            model=self.options.model or self._source.model,
            version=self.options.version or self._source.version,
            architecture=_architecture(self._source, self.options.storage_dtype),
            tiers=self._assignment.tiers,
            files=files,
            tensors=self.layout.tensors,
            experts=self.layout.experts,
            extras=extras,
        )

    def input_id(self) -> str:
        """Of what decides every byte of the output, and the times by which a new source shows."""
        names = {file.name for file in self._source.files} | self._source.extras.keys()
        names |= {CONFIG, INDEX_NAME, SAFETENSORS + INDEX_SUFFIX, PICKLE + INDEX_SUFFIX}
        directory = self.reader.directory
        paths = [path for name in sorted(names) if (path := directory / name).exists()]
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        options = self.options
        chosen = [
            options.storage_dtype,
            options.model or self._source.model,
            options.version,
            options.max_file_bytes,
        ]
        tiers = msgspec.to_builtins(options.tiers)
        return hashlib.sha256(canonical([MAJOR, MINOR, stats, chosen, tiers])).hexdigest()


def _assignment(manifest: Manifest, options: ConvertOptions) -> Assignment:
    if options.tiers is None:
        return Assignment(manifest.tiers, manifest.experts)
    if not manifest.experts:
        raise InvalidRequest(
            "a dense model has no experts to assign",
            where="tiers",
            remedy="convert it without tiers",
        )
    return assign(manifest.experts, options.tiers)


def _target_dtype(record: TensorRecord, wanted: str) -> str:
    exact = any(piece in record.name for piece in KEPT_EXACT)
    return wanted if wanted and record.dtype in FLOATS and not exact else record.dtype


def _architecture(manifest: Manifest, dtype: str) -> dict[str, Any]:
    """``config.json`` with the new dtype where it names one."""
    fields = dict(manifest.architecture)
    name = next((long for long, short in DTYPE_NAMES.items() if short == dtype), "")
    for field in ("dtype", "torch_dtype"):
        if name and field in fields:
            fields[field] = name
    return fields
