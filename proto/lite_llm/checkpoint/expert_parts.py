"""Which tensors of a Hugging Face checkpoint belong to which expert, in every layout there is.

Experts come one by one (``experts.3.w1.weight``), or fused: all of a layer in one tensor whose
first axis counts them, often with gate and up in one. Any of it may stand in one checkpoint.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from lite_llm.checkpoint.strict_json import corrupt
from lite_llm.contracts.manifest import TensorRecord

_LAYER = r"(?:model\.|language_model\.model\.|model\.language_model\.|)layers\.(?P<layer>\d{1,6})\."
_SINGLE: Final = re.compile(
    _LAYER + r"\w+\.experts\.(?P<row>\d{1,6})\."
    r"(?P<part>w1|w2|w3|gate_proj|up_proj|down_proj|gate_up_proj)\.(?P<kind>[\w.]+)"
)
_FUSED: Final = re.compile(
    _LAYER + r"(?P<part>\w+\.experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj)"
    r"|(?:block_sparse_moe|mlp)\.(?:input|output)_linear)"  # not shared_mlp's, which is dense
    r"(?:[._](?P<kind>\w+))?"
)
_ROLES: Final = {
    "w1": "gate", "w3": "up", "w2": "down",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down", "gate_up_proj": "gate_up",
    "input_linear": "gate_up", "output_linear": "down",
}  # fmt: skip
_ROLE_ORDER: Final = ("gate", "up", "gate_up", "gate_up_interleaved", "down")

INTERLEAVED_FAMILIES: Final = frozenset({"gpt_oss"})
"""Families in which gate and up take turns, element by element of the output."""

TRANSPOSED_FAMILIES: Final = frozenset(
    {"gpt_oss", "openai_privacy_filter", "llama4", "llama4_text", "aria", "aria_text"}
)
"""Families whose fused weights are [experts, in, out]; of others the shape alone can tell."""

MAX_PARTS: Final = 1 << 20
"""Of experts in one checkpoint: five times what a trillion parameters in int4 have."""

Experts = dict[tuple[int, int], list[TensorRecord]]
"""Parts by layer and router row."""


def split_experts(
    records: Iterable[TensorRecord], architecture: Mapping[str, Any], where: str
) -> tuple[list[TensorRecord], Experts]:
    """``records`` as the dense ones and the parts of each expert, in canonical order.

    What the parts' names say is in docs/checkpoint-format.md. Raises :class:`Corrupt`, naming a
    file in ``where``, if two tensors claim to be the same part.
    """
    dense: list[TensorRecord] = []
    experts: Experts = defaultdict(list)
    family = _Family(architecture)
    num_parts = 0
    for record in records:
        if match := _SINGLE.fullmatch(record.name):
            name = f"{family.role(match['part'])}.{match['kind']}"
            experts[int(match["layer"]), int(match["row"])].append(_named(record, name))
        elif (match := _FUSED.fullmatch(record.name)) and _divides(record):
            num_parts += record.shape[0]  # an empty tensor may have any number of experts
            if num_parts > MAX_PARTS:
                raise corrupt(
                    f"more than {MAX_PARTS} parts of fused experts", f"{where}/{record.span.file}"
                )
            role, kind = family.role(match["part"].rpartition(".")[2]), match["kind"] or "weight"
            if kind == "weight" and family.transposes(record.shape[1:], role):
                kind = "weight_transposed"
            for row, part in enumerate(_slices(record, f"{role}.{kind}")):
                experts[int(match["layer"]), row].append(part)
        else:
            dense.append(record)
    for (layer, row), parts in experts.items():
        parts[:] = sorted(_halved(parts), key=_canonical_order)
        if len({part.name for part in parts}) < len(parts):
            raise corrupt(
                f"two tensors for one part of expert {row} in layer {layer}",
                f"{where}/{parts[0].span.file}",
            )
    return dense, dict(experts)


def text_config(architecture: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the language model: nested in ``config.json`` where there is an image, too."""
    nested = architecture.get("text_config")
    return nested if isinstance(nested, Mapping) else architecture


class _Family:
    """How the architecture stores what its tensors' names don't say."""

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        text = text_config(architecture)
        types = [architecture.get("model_type"), text.get("model_type")]
        names = {name for name in types if isinstance(name, str)}
        self._interleaves = bool(names & INTERLEAVED_FAMILIES)
        self._transposes = bool(names & TRANSPOSED_FAMILIES)
        self._hidden_size = text.get("hidden_size")

    def role(self, part: str) -> str:
        role = _ROLES[part]
        return "gate_up_interleaved" if role == "gate_up" and self._interleaves else role

    def transposes(self, shape: tuple[int, ...], role: str) -> bool:
        """Whether a fused expert's weight of ``shape`` is [in, out] rather than [out, in]."""
        if len(shape) != 2 or self._transposes:
            return len(shape) == 2
        outer, inner = reversed(shape) if role == "down" else shape
        return outer == self._hidden_size != inner


def _divides(fused: TensorRecord) -> bool:
    """Whether every expert of ``fused`` begins at a byte of its own."""
    return bool(fused.shape and fused.shape[0] and fused.span.length % fused.shape[0] == 0)


def _slices(fused: TensorRecord, name: str) -> Iterator[TensorRecord]:
    each = fused.span.length // fused.shape[0]
    for row in range(fused.shape[0]):
        yield TensorRecord(name, fused.span.part(row * each, each), fused.shape[1:], fused.dtype)


def _halved(parts: list[TensorRecord]) -> Iterator[TensorRecord]:
    """``parts`` with ``gate_up`` as the two halves it is, if all of its kinds can be cut so."""
    fused = {part.name: part for part in parts if part.name.startswith("gate_up.")}
    weight = fused.get("gate_up.weight", fused.get("gate_up.blocks"))
    can_be_cut = (
        weight is not None
        and bool(weight.shape)
        and all(_has_halves(part, weight.shape[0]) for part in fused.values())
    )
    for part in parts:
        if not can_be_cut or part.name not in fused:
            yield part
            continue
        kind, length = part.name.removeprefix("gate_up."), part.span.length // 2
        shape = (part.shape[0] // 2, *part.shape[1:])
        for number, role in enumerate(("gate", "up")):
            span = part.span.part(number * length, length)
            yield TensorRecord(f"{role}.{kind}", span, shape, part.dtype)


def _has_halves(part: TensorRecord, num_rows: int) -> bool:
    """Whether the first half of ``part`` belongs to the first half of the weight's ``num_rows``.

    A scale's row stands for a block of rows, a power of two, of which one may span both halves.
    """
    if not part.shape or not part.shape[0] or part.shape[0] % 2 or part.span.length % 2:
        return False
    block, rest = divmod(num_rows, part.shape[0])
    return rest == 0 and block & (block - 1) == 0


def _named(record: TensorRecord, name: str) -> TensorRecord:
    return TensorRecord(name, record.span, record.shape, record.dtype)


def _canonical_order(part: TensorRecord) -> tuple[int, int, str]:
    role, _, kind = part.name.partition(".")
    rank = 2 if "bias" in kind else 1 if "scale" in kind else 0
    return rank, _ROLE_ORDER.index(role), kind
