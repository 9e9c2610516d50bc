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

_STACK = r"(?:model\.|language_model\.model\.|model\.language_model\.|)layers"
_SINGLE: Final = re.compile(
    _STACK + r"\.(?P<layer>\d{1,6})\.\w+\.experts\.(?P<row>\d{1,6})\."
    r"(?P<part>w1|w2|w3|gate_proj|up_proj|down_proj|gate_up_proj)\.(?P<kind>[\w.]+)"
)
_FUSED: Final = re.compile(
    _STACK + r"\.(?P<layer>\d{1,6})\.\w+\."
    r"(?P<part>experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj)"
    r"|block_sparse_moe\.(?:input|output)_linear|(?:input|output)_linear)"
    r"(?:[._](?P<kind>\w+))?"
)
_ROLES: Final = {
    "w1": "gate", "w3": "up", "w2": "down",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down", "gate_up_proj": "gate_up",
    "input_linear": "gate_up", "output_linear": "down",
}  # fmt: skip
_ROLE_ORDER: Final = ("gate", "up", "gate_up", "down")

MIXED_FAMILIES: Final = frozenset(
    {"gpt_oss", "openai_privacy_filter", "llama4", "llama4_text", "aria", "aria_text"}
    | {"qwen3_vl_moe", "qwen3_vl_moe_text"}
)
"""Families whose fused gate and up alternate or lie side by side in each row, so that neither is
contiguous: such an expert has one part ``gate_up``, in the family's own order."""

MAX_PARTS: Final = 1 << 20
"""Of experts in one checkpoint: five times what a trillion parameters in int4 have."""

Experts = dict[tuple[int, int], list[TensorRecord]]
"""Parts by layer and router row."""


def split_experts(
    records: Iterable[TensorRecord], architecture: Mapping[str, Any], where: str
) -> tuple[list[TensorRecord], Experts]:
    """``records`` as the dense ones and the parts of each expert, in canonical order.

    Raises :class:`Corrupt`, naming a file in ``where``, if two tensors claim to be the same part.
    """
    dense: list[TensorRecord] = []
    experts: Experts = defaultdict(list)
    num_parts = 0
    for record in records:
        if match := _SINGLE.fullmatch(record.name):
            place = int(match["layer"]), int(match["row"])
            experts[place].append(_named(record, _ROLES[match["part"]], match["kind"]))
        elif (match := _FUSED.fullmatch(record.name)) and record.shape:
            num_parts += record.shape[0]  # an empty tensor may have any number of experts
            if num_parts > MAX_PARTS:
                raise corrupt(
                    f"more than {MAX_PARTS} parts of fused experts", f"{where}/{record.span.file}"
                )
            for row, part in _unfused(record, match, architecture):
                experts[int(match["layer"]), row].append(part)
        else:
            dense.append(record)
    for (layer, row), parts in experts.items():
        parts.sort(key=_canonical_order)
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


def _unfused(
    fused: TensorRecord, match: re.Match[str], architecture: Mapping[str, Any]
) -> Iterator[tuple[int, TensorRecord]]:
    role = _ROLES[match["part"].rpartition(".")[2]]
    kind = match["kind"] or "weight"
    num_experts, shape = fused.shape[0], fused.shape[1:]
    if not num_experts or fused.span.length % num_experts:
        return
    each = fused.span.length // num_experts
    halves = role == "gate_up" and _lies_in_halves(fused, architecture)
    for row in range(num_experts):
        span = fused.span.part(row * each, each)
        if halves:
            half_shape = (shape[0] // 2, *shape[1:])
            for number, half in enumerate(("gate", "up")):
                part = span.part(number * each // 2, each // 2)
                yield row, TensorRecord(f"{half}.{kind}", part, half_shape, fused.dtype)
        else:
            yield row, TensorRecord(f"{role}.{kind}", span, shape, fused.dtype)


def _lies_in_halves(fused: TensorRecord, architecture: Mapping[str, Any]) -> bool:
    """Whether the rows of gate come first and those of up behind them."""
    text = text_config(architecture)
    if {architecture.get("model_type"), text.get("model_type")} & MIXED_FAMILIES:
        return False
    hidden = text.get("hidden_size")
    transposed = len(fused.shape) == 3 and fused.shape[1] == hidden != fused.shape[2]
    return len(fused.shape) > 1 and fused.shape[1] % 2 == 0 and not transposed


def _named(record: TensorRecord, role: str, kind: str) -> TensorRecord:
    return TensorRecord(f"{role}.{kind}", record.span, record.shape, record.dtype)


def _canonical_order(part: TensorRecord) -> tuple[int, int, str]:
    role, _, kind = part.name.partition(".")
    rank = 2 if "bias" in kind else 1 if "scale" in kind else 0
    return rank, _ROLE_ORDER.index(role), kind
