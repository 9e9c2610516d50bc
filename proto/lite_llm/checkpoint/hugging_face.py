"""The index of a Hugging Face directory, made on the fly: nothing is converted or copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from lite_llm.checkpoint.expert_parts import Experts, split_experts, text_config
from lite_llm.checkpoint.files import read_small
from lite_llm.checkpoint.json_members import members, scan
from lite_llm.checkpoint.safetensors_header import read_header
from lite_llm.checkpoint.strict_json import corrupt, decoded, parse_object
from lite_llm.checkpoint.torch_pickle import read_pickle
from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, FileRecord, Manifest, TensorRecord
from lite_llm.contracts.tiers import Placement, Tier

CONFIG: Final = "config.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX: Final = ".index.json"
MAX_CONFIG_BYTES: Final = 1 << 20
MAX_SHARD_INDEX_BYTES: Final = 32 << 20
MAX_TENSORS: Final = 220_000
"""In a shard index: Kimi-K2 in int4 has 207,000, which take 21 MB there."""
MAX_SHARDS: Final = 4096
EXTRAS: Final = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json",
    "merges.txt", "preprocessor_config.json", "special_tokens_map.json", "spiece.model",
    "tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    "vocab.txt",
)  # fmt: skip
"""Small files that a served model needs beside its weights."""


class _ShardIndex(msgspec.Struct):
    weight_map: msgspec.Raw


def describe(directory: Path, *, pickles: bool = False) -> Manifest:
    """The manifest of the Hugging Face checkpoint in ``directory``, from headers alone.

    ``pickles`` also admits torch's ``.bin`` files where there are no safetensors. Raises
    :class:`Corrupt` naming file and tensor, and :class:`Unsupported` for other formats.
    """
    data = read_small(directory / CONFIG, max_bytes=MAX_CONFIG_BYTES, follow_links=True)
    architecture = parse_object(
        data, str(directory / CONFIG), max_bytes=MAX_CONFIG_BYTES, special_floats=True
    )
    files, tensors = _contents(directory, pickles=pickles)
    dense, parts = split_experts(tensors, architecture, str(directory))
    tiers, experts = _one_tier(parts, architecture)
    return Manifest(
        model=_model_name(directory.resolve()),
        architecture=architecture,
        tiers=tiers,
        files=tuple(sorted(files, key=lambda file: file.name)),
        tensors=tuple(sorted(dense, key=lambda record: (record.span.file, record.span.offset))),
        experts=experts,
        extras={name: "" for name in EXTRAS if (directory / name).is_file()},
    )


def _model_name(directory: Path) -> str:
    """The folder's; in the hub's cache, ``models--OWNER--NAME/snapshots/HASH``, the model's."""
    if directory.parent.name == "snapshots":
        return directory.parent.parent.name.removeprefix("models--").replace("--", "/")
    return directory.name


def _contents(directory: Path, *, pickles: bool) -> tuple[list[FileRecord], list[TensorRecord]]:
    stem, names, places = _shards(directory, pickles=pickles)
    read = read_header if stem == SAFETENSORS else read_pickle
    files: list[FileRecord] = []
    found: dict[str, TensorRecord] = {}
    for name in names:
        content = read(directory / name)
        files.append(FileRecord(name, content.num_bytes))
        for record in content.tensors:
            if record.name in found:
                other = found[record.name].span.file
                raise corrupt(f"tensor {record.name} is in {other}, too", str(directory / name))
            found[record.name] = record
    where = str(directory / (stem + INDEX_SUFFIX))
    for tensor, value in scan(places, where):
        file = decoded(value, str, where)
        if tensor not in found or found[tensor].span.file != file:
            raise corrupt(f"{tensor[:200]} is not in {file}", where)
    return files, list(found.values())


def _shards(directory: Path, *, pickles: bool) -> tuple[str, list[str], memoryview]:
    """The format by its file's usual name, the names of the shards, and what an index says."""
    for stem in (SAFETENSORS, PICKLE) if pickles else (SAFETENSORS,):
        if (index := directory / f"{stem}{INDEX_SUFFIX}").exists():
            data = read_small(index, max_bytes=MAX_SHARD_INDEX_BYTES, follow_links=True)
            places = memoryview(decoded(data, _ShardIndex, str(index)).weight_map)
            return stem, _shard_names(places, stem, f"{index}: weight_map"), places
        if (directory / stem).exists():
            return stem, [stem], memoryview(b"{}")
    hint = "pickles are read by `lite-llm convert` only" if not pickles else "fetch it again"
    raise Unsupported(
        f"{directory} holds neither checkpoint.idx nor {SAFETENSORS}",
        where=str(directory),
        remedy=f"give a directory with a checkpoint; {hint}",
    )


def _shard_names(places: memoryview, stem: str, where: str) -> list[str]:
    suffix = Path(stem).suffix
    values: set[bytes] = set()
    for _, value in members(places, where, max_count=MAX_TENSORS):
        values.add(value)
        if len(values) > MAX_SHARDS:
            raise corrupt(f"more than {MAX_SHARDS} files", where)
    names = sorted(decoded(value, str, where) for value in values)
    for name in names:
        # A name with a folder in it could reach outside of the checkpoint.
        if "/" in name or "\0" in name or name.startswith(".") or not name.endswith(suffix):
            raise corrupt(f"{name[:200]!r} is not the plain name of a {suffix} file", where)
    if not names:
        raise corrupt("names no file", where)
    return names


def _one_tier(
    parts: Experts, architecture: Mapping[str, Any]
) -> tuple[tuple[Tier, ...], tuple[ExpertRecord, ...]]:
    """All experts in one hot tier, in the groups that the model's own gate knows (SPEC-005)."""
    if not parts:
        return (), ()
    text = text_config(architecture)
    num_experts = 1 + max(row for _, row in parts)
    groups = _count(text, "n_group", default=1)
    if num_experts % groups:
        groups = 1
    per_group = num_experts // groups
    experts = tuple(
        ExpertRecord(ExpertKey(layer, 0, *divmod(row, per_group)), tuple(found), row)
        for (layer, row), found in sorted(parts.items())
    )
    top_k = _count(text, "num_experts_per_tok", "num_local_experts_per_tok", "top_k", default=1)
    top_k_groups = min(_count(text, "topk_group", default=1), groups)
    tier = Tier(
        id=0,
        name="all",
        parameter_budget=sum(expert.num_parameters for expert in experts),
        groups=groups,
        experts_per_group=per_group,
        placement=Placement.HOT,
        top_k_groups=top_k_groups,
        top_k_experts=min(-(-top_k // top_k_groups), per_group),
    )
    return (tier,), experts


def _count(fields: Mapping[str, Any], *names: str, default: int) -> int:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return default
