"""``checkpoint.idx``: how a manifest is written down, and how one from a stranger is read.

The file is one JSON document, ``{"checksum":…,"header":{…},"records":[…]}``, without spaces. What
is small and grows with time stands in the header, by name. What is many stands in the records as
arrays, which have no keys to repeat and cost little memory before they are checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from lite_llm.checkpoint.strict_json import canonical, converted, corrupt, decoded, parse_object
from lite_llm.contracts.errors import InvalidName, InvalidSettings, Unsupported, VersionMismatch
from lite_llm.contracts.manifest import DTYPE_BITS, ExpertRecord, Manifest
from lite_llm.contracts.tiers import Placement, Tier

INDEX_NAME: Final = "checkpoint.idx"
SIGNATURE_NAME: Final = "checkpoint.idx.sig"
MAJOR, MINOR = 1, 0
"""Of the format. A new minor adds what old readers may ignore; a new major is not for them."""

MAX_INDEX_BYTES: Final = 16 << 20  # a trillion parameters of 400 experts a layer need some 4 MiB
MAX_HEADER_BYTES: Final = 1 << 20  # the largest config.json of the hub is a tenth of it
MAX_CHUNK_BYTES: Final = 64 << 20  # what checking a single byte may have to read
MAX_ARRAYS: Final = 1 << 18  # what decoding them may cost stays within 64 MiB

_CHECKSUM, _HEADER, _RECORDS = b'{"checksum":"', b'","header":', b',"records":'
_DIGITS: Final = 64  # of a SHA-256 in hexadecimal

Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=512)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Dims = Annotated[tuple[Natural, ...], Meta(max_length=16)]


class Format(Struct):
    """Version of the format that the file was written in."""

    major: int
    minor: int = 0


class TierEntry(Struct, omit_defaults=True):
    """A :class:`Tier` by its fields; later minors may add some, so all but the name default."""

    id: Natural
    name: str
    parameter_budget: Natural
    groups: Natural = 1
    experts_per_group: Natural = 1
    placement: str = "hot"
    top_k_groups: Natural = 1
    top_k_experts: Natural = 1
    dtype: str = ""


class PartEntry(Struct, array_like=True):
    """A part of an expert, as all experts of one layout have it."""

    name: Annotated[str, Meta(min_length=1, max_length=512)]
    dtype: str
    shape: Dims


class Header(Struct):
    """Everything that is small."""

    format: Format
    model: Text
    architecture: dict[str, Any]
    version: Text = ""
    step: Natural = 0
    tiers: list[TierEntry] = []
    layouts: list[Annotated[list[PartEntry], Meta(min_length=1, max_length=64)]] = []
    extras: dict[str, Sha256] = {}
    routing_seed: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] = "0" * 32
    optimizer: dict[str, Any] = {}


class FileEntry(Struct, array_like=True, gc=False):
    """A file; its chunk checksums stand one behind the other, 16 digits each."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    num_bytes: Natural
    sha256: Sha256
    chunk_bytes: Annotated[int, Meta(ge=4096, le=MAX_CHUNK_BYTES)]
    chunk_checksums: str


class TensorEntry(Struct, array_like=True, gc=False):
    """A tensor that belongs to no expert; ``file`` counts in the list of files."""

    name: Annotated[str, Meta(min_length=1, max_length=512)]
    file: Natural
    offset: Natural
    length: Natural
    shape: Dims
    dtype: str


class ExpertEntry(Struct, array_like=True, gc=False):
    """An expert's record; its parts follow from ``layout``."""

    layer: Natural
    tier: Natural
    group: Natural
    expert: Natural
    router_row: Natural
    file: Natural
    offset: Natural
    layout: Natural


class Records(Struct, array_like=True):
    """Everything that is many."""

    files: list[FileEntry]
    tensors: list[TensorEntry]
    experts: list[ExpertEntry] = []


class _Frame(Struct):
    checksum: str
    header: Raw
    records: Raw


def encode(manifest: Manifest) -> bytes:
    """The bytes of the index: the same for the same manifest, always."""
    layouts = layouts_of(manifest)
    header = {
        "format": {"major": MAJOR, "minor": MINOR},
        "model": manifest.model,
        "version": manifest.version,
        "step": manifest.step,
        "architecture": dict(manifest.architecture),
        "tiers": [_tier_entry(tier) for tier in manifest.tiers],
        "layouts": [
            [[name, dtype, list(shape)] for name, dtype, shape in layout] for layout in layouts
        ],
        "extras": dict(manifest.extras),
    } | _training(manifest)
    encoded_header = canonical(header)
    _check_size("the index's header", len(encoded_header), MAX_HEADER_BYTES)
    body = _HEADER[2:] + encoded_header + _RECORDS + canonical(_records(manifest, layouts))
    content = body + b"}"
    checksum = hashlib.sha256(content).hexdigest().encode()
    data = _CHECKSUM + checksum + _HEADER[:2] + content
    _check_size("the index", len(data), MAX_INDEX_BYTES)
    return data


def decode(data: bytes, where: str) -> tuple[Header, Records]:
    """What an index says, each value of its type but not yet held against the others.

    Raises :class:`Corrupt` with the field's path, and :class:`VersionMismatch` for another major.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise corrupt(f"more than {MAX_INDEX_BYTES} bytes", where)
    start = len(_CHECKSUM) + _DIGITS
    content = memoryview(data)[start + 2 :]
    checksum = hashlib.sha256(content).hexdigest().encode()
    if data[: start + 2] != _CHECKSUM + checksum + _HEADER[:2]:
        raise corrupt("does not match its own checksum", where)
    frame = decoded(data, _Frame, where)
    header_bytes = bytes(frame.header)
    num_bytes = start + len(_HEADER) + len(header_bytes) + len(_RECORDS)
    if num_bytes + len(memoryview(frame.records)) + 1 != len(data):
        raise corrupt("has members beside checksum, header and records, or spaces", where)
    header = _header(header_bytes, f"{where}: header")
    if bytes(frame.records).count(b"[") > MAX_ARRAYS:
        raise corrupt(f"more than {MAX_ARRAYS} arrays", f"{where}: records")
    return header, decoded(frame.records, Records, f"{where}: records")


def layouts_of(manifest: Manifest) -> dict[tuple[Any, ...], int]:
    """The distinct layouts of the manifest's experts, numbered in order of appearance."""
    layouts: dict[tuple[Any, ...], int] = {}
    for expert in manifest.experts:
        layouts.setdefault(layout_of(expert), len(layouts))
    return layouts


def layout_of(expert: ExpertRecord) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Names, dtypes and shapes of the parts, from which their offsets follow."""
    return tuple((part.name, part.dtype, part.shape) for part in expert.parts)


def tier_of(entry: TierEntry, where: str) -> Tier:
    """The contract's view of ``entry``; :class:`Corrupt` if it breaks a tier's own rules."""
    fields = msgspec.structs.asdict(entry)
    try:
        placement = Placement[entry.placement.upper()]
        if entry.dtype and entry.dtype not in DTYPE_BITS:
            raise corrupt(f"{entry.dtype[:80]!r} is no dtype", f"{where}.dtype")
        return Tier(**(fields | {"placement": placement}))
    except KeyError as error:
        raise corrupt(f"no placement {entry.placement[:80]!r}", f"{where}.placement") from error
    except (InvalidName, InvalidSettings) as error:
        raise corrupt(str(error), where) from error


def _header(data: bytes, where: str) -> Header:
    fields = parse_object(data, where, max_bytes=MAX_HEADER_BYTES)
    found = converted(fields.get("format"), Format, f"{where}.format")
    if found.major != MAJOR:
        raise VersionMismatch(
            f"{where}.format: major version {found.major}, but this program reads {MAJOR}",
            where=where,
            remedy="use the program's version that wrote it, or convert the model again",
        )
    return converted(fields, Header, where)


def _check_size(what: str, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise Unsupported(
            f"{what} would have {num_bytes} bytes, more than {limit}",
            where=INDEX_NAME,
            remedy="split the model into several checkpoints",
        )


def _tier_entry(tier: Tier) -> Mapping[str, Any]:
    fields = {name: getattr(tier, name) for name in TierEntry.__struct_fields__}
    return fields | {"placement": tier.placement.name.lower()}


def _training(manifest: Manifest) -> dict[str, Any]:
    """Fields that most checkpoints have no use for, and so leave out."""
    fields: dict[str, Any] = {}
    if manifest.routing_seed:
        fields["routing_seed"] = f"{manifest.routing_seed:032x}"
    if manifest.optimizer:
        fields["optimizer"] = dict(manifest.optimizer)
    return fields


def _records(manifest: Manifest, layouts: Mapping[tuple[Any, ...], int]) -> Any:
    number = {file.name: position for position, file in enumerate(manifest.files)}
    records = Records([], [], [])
    for file in manifest.files:
        checksums = "".join(f"{value:016x}" for value in file.chunk_checksums)
        records.files.append(
            FileEntry(file.name, file.num_bytes, file.sha256, file.chunk_bytes, checksums)
        )
    for tensor in manifest.tensors:
        span = tensor.span
        records.tensors.append(
            TensorEntry(
                tensor.name, number[span.file], span.offset, span.length, tensor.shape, tensor.dtype
            )
        )
    for expert in manifest.experts:
        key, span, layout = expert.key, expert.parts[0].span, layouts[layout_of(expert)]
        records.experts.append(
            ExpertEntry(
                *(key.layer, key.tier, key.group, key.expert, expert.router_row),
                *(number[span.file], span.offset, layout),
            )
        )
    return msgspec.to_builtins(records)
