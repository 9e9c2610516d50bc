"""Tensors in torch's zip files, found without torch and without running what a pickle may call.

torch stores a state dict as a pickle beside one uncompressed entry per storage, so that every
contiguous tensor is a span of the file.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lite_llm.checkpoint.pickle_machine import PickleMachine, RefusedPickle
from lite_llm.checkpoint.sizes import tensor_bytes
from lite_llm.checkpoint.strict_json import corrupt
from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.manifest import Span, TensorRecord

MAX_DIRECTORY_BYTES: Final = 64 << 20  # of a zip file's own records; 100 bytes an entry
MAX_PICKLE_BYTES: Final = 32 << 20

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # magic, then the lengths of name and extra field
_STORAGES: Final = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64",
    "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
_STORAGE_NAME: Final = re.compile(r"torch\.(\w+)Storage")


@dataclass(frozen=True)
class PickleFile:
    """What one file holds."""

    num_bytes: int
    tensors: tuple[TensorRecord, ...]


@dataclass(frozen=True)
class _Storage:
    span: Span
    dtype: str


@dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(path: Path) -> PickleFile:
    """The tensors of the torch file at ``path``.

    Raises :class:`Corrupt` for a damaged or hostile file, and :class:`Unsupported` for torch's
    format before 1.6, for tensors that are not contiguous, and for names beyond tensors.
    """
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            num_bytes = file.seek(0, io.SEEK_END)
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise corrupt("not one data.pkl inside", str(path))
            root = names[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist():
                _check_byte_order(archive, f"{root}byteorder", path)
            info = archive.getinfo(names[0])
            if info.file_size > MAX_PICKLE_BYTES or info.compress_type != zipfile.ZIP_STORED:
                raise corrupt(f"data.pkl is compressed or over {MAX_PICKLE_BYTES} bytes", str(path))
            spans = _StorageSpans(file, archive, root, path.name)
            state = PickleMachine(archive.read(info), _find, spans.load).run()
    except zipfile.BadZipFile as error:
        raise Unsupported(
            f"{path} is no zip file: {error}",
            where=str(path),
            remedy="save it again with torch 1.6 or later, or as safetensors",
        ) from error
    except RefusedPickle as error:
        raise Unsupported(
            f"{path}: refused to unpickle: {error}",
            where=str(path),
            remedy="save a plain dict of tensors, or safetensors",
        ) from error
    except (OSError, NotImplementedError, RuntimeError, struct.error) as error:
        raise corrupt(f"can't be read: {error}", str(path)) from error
    if not isinstance(state, dict):
        raise corrupt("the pickle is no dict of tensors", str(path))
    return PickleFile(num_bytes, tuple(_records(state, path)))


class _BoundedFile(io.FileIO):
    """Reads no more in all than a well-formed file's own records take."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._left = MAX_DIRECTORY_BYTES + MAX_PICKLE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(self._left + 1 if size is None or size < 0 else size)
        self._left -= len(data or b"")
        if self._left < 0:
            raise OSError("its directory is too large")
        return data or b""


class _StorageSpans:
    """Where the storages of an archive lie in its file."""

    def __init__(
        self, file: io.FileIO, archive: zipfile.ZipFile, root: str, file_name: str
    ) -> None:
        self._file = file
        self._archive = archive
        self._root = root
        self._file_name = file_name
        self._known: dict[str, Span] = {}

    def load(self, identity: Any) -> _Storage:
        """The storage that a pickle refers to as ("storage", type, key, device, elements)."""
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise RefusedPickle(f"a reference to {identity!r:.80}")
        dtype, key = getattr(identity[1], "dtype", None), identity[2]
        if not isinstance(dtype, str) or not isinstance(key, str):
            raise RefusedPickle("a storage without type or key")
        if key not in self._known:
            self._known[key] = self._span(f"{self._root}data/{key}")
        return _Storage(self._known[key], dtype)

    def _span(self, entry: str) -> Span:
        info = self._archive.getinfo(entry)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise RefusedPickle(f"{entry} is compressed or encrypted")
        self._file.seek(info.header_offset)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise RefusedPickle(f"{entry} is not where the directory says")
        start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if start + info.file_size > self._file.seek(0, io.SEEK_END):
            raise RefusedPickle(f"{entry} ends behind the file")
        return Span(self._file_name, start, info.file_size)


class _StorageType:
    """Stands for a class such as torch.FloatStorage; can't be called to any effect."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __call__(self, *_: Any) -> Any:
        raise RefusedPickle("a storage is made by reference only")


def _find(name: str) -> Callable[..., Any]:
    if (match := _STORAGE_NAME.fullmatch(name)) and match[1] in _STORAGES:
        return _StorageType(_STORAGES[match[1]])
    if name not in _FUNCTIONS:
        raise RefusedPickle(f"{name!r:.100} is not a part of tensors")
    return _FUNCTIONS[name]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > 16:
        raise RefusedPickle("a tensor of no storage or of odd dimensions")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise RefusedPickle("a tensor whose sizes are no sizes")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(view: Any, *_: Any) -> Any:
    return view


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "collections.OrderedDict": dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}


def _records(state: Mapping[Any, Any], path: Path) -> list[TensorRecord]:
    records = []
    for name, view in state.items():
        where = f"{path}: {name!r:.200}"
        if not isinstance(name, str) or not name.isprintable() or not isinstance(view, _View):
            raise corrupt("is not a name with its tensor", where)
        if not _is_contiguous(view):
            raise Unsupported(
                f"{where}: the tensor is not contiguous",
                where=where,
                remedy="save it again after .contiguous()",
            )
        length = tensor_bytes(view.shape, view.storage.dtype)
        start = view.offset * tensor_bytes((1,), view.storage.dtype)
        if start + length > view.storage.span.length:
            raise corrupt("ends behind its storage", where)
        span = view.storage.span.part(start, length)
        records.append(TensorRecord(name, span, view.shape, view.storage.dtype))
    return records


def _is_contiguous(view: _View) -> bool:
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in view.shape
        expected *= size
    return True


def _check_byte_order(archive: zipfile.ZipFile, entry: str, path: Path) -> None:
    # Its length is looked at first: compressed, a few bytes could become gigabytes.
    if archive.getinfo(entry).file_size > 8 or archive.read(entry) != b"little":
        raise Unsupported(
            f"{path} is not little-endian",
            where=str(path),
            remedy="save it on a little-endian machine",
        )
