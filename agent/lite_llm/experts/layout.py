"""An expert's stored parts as the matrices that compute, whatever the family's way to store them.

What the parts' names say is in docs/checkpoint-format.md. Legend: N outputs, K inputs of a matrix,
B blocks of 32 inputs (MXFP4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.experts.bank import ExpertWeights, Matrix

FLOATS: Final = ("F32", "BF16", "F16")
MXFP4_BLOCK: Final = 32

_ROLES: Final = ({"gate", "up", "down"}, {"gate_up", "down"}, {"gate_up_interleaved", "down"})
_FP4: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # OCP MX 1.0; eight more are negative
_EXPONENT_BIAS: Final = 127

Shape = tuple[int, ...]


def check_layer(
    layer: int,
    experts: Sequence[ExpertRecord],
    *,
    count: int,
    hidden_size: int,
    inner_size: int,
    biased: bool = False,
) -> None:
    """Raise :class:`Corrupt` or :class:`Unsupported`, naming layer, expert and part.

    ``count`` experts are wanted, numbered from 0, of these sizes; ``biased``: with biases.
    """
    rows = sorted(expert.router_row for expert in experts)
    if len(rows) != count:
        raise _corrupt(f"layer {layer} has {len(rows)} experts, not {count}", f"layer {layer}")
    for expected, row in enumerate(rows):
        if row != expected:
            raise _corrupt(f"layer {layer} has no expert {expected}", f"layer {layer}")
    for expert in experts:
        _check_expert(f"expert {expert.key}", expert, hidden_size, inner_size, biased)


def matrices_of(parts: Mapping[str, Tensor], dtype: torch.dtype) -> ExpertWeights:
    """The weights of one expert that :func:`check_layer` accepted, in ``dtype``.

    Views where the parts lie as the products want them; copies where they have to be transposed,
    separated or dequantised.
    """
    roles = {name.partition(".")[0] for name in parts}
    matrices = {role: _matrix(parts, role, dtype) for role in roles}
    if "gate" in roles:
        return ExpertWeights(matrices["gate"], matrices["up"], matrices["down"])
    interleaved = "gate_up_interleaved" in roles
    both = matrices["gate_up_interleaved" if interleaved else "gate_up"]
    half = len(both.weight_NK) // 2
    halves = (
        (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))
    )
    gate, up = (
        Matrix(
            both.weight_NK[rows].contiguous(),
            None if both.bias_N is None else both.bias_N[rows].contiguous(),
        )
        for rows in halves
    )
    return ExpertWeights(gate, up, matrices["down"])


def mxfp4(blocks_NBH: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """Two values a byte, the first in the low bits, times a power of two a block: ``[N, K]``."""
    values = torch.tensor((*_FP4, *(-value for value in _FP4)), device=blocks_NBH.device)
    low, high = values[(blocks_NBH & 15).long()], values[(blocks_NBH >> 4).long()]
    pairs_NBH2 = torch.stack((low, high), dim=-1)
    exponents_NB = scales_NB.int() - _EXPONENT_BIAS
    return torch.ldexp(pairs_NBH2, exponents_NB[..., None, None]).flatten(1).to(dtype)


def _matrix(parts: Mapping[str, Tensor], role: str, dtype: torch.dtype) -> Matrix:
    if (blocks := parts.get(f"{role}.blocks")) is not None:
        weight_NK = mxfp4(blocks, parts[f"{role}.scales"], dtype)
    elif (transposed := parts.get(f"{role}.weight_transposed")) is not None:
        weight_NK = transposed.T.contiguous()
    else:
        weight_NK = parts[f"{role}.weight"]
    return Matrix(weight_NK, parts.get(f"{role}.bias"))


def _check_expert(where: str, expert: ExpertRecord, hidden: int, inner: int, biased: bool) -> None:
    by_role: dict[str, dict[str, tuple[Shape, str]]] = {}
    for part in expert.parts:
        role, _, kind = part.name.partition(".")
        by_role.setdefault(role, {})[kind] = (part.shape, part.dtype)
    if by_role.keys() not in _ROLES:
        raise _corrupt(f"{where} consists of {', '.join(sorted(by_role)) or 'nothing'}", where)
    for role, kinds in by_role.items():
        outputs = {"down": hidden, "gate": inner, "up": inner}.get(role, 2 * inner)
        wanted = _wanted(kinds.keys(), outputs, inner if role == "down" else hidden)
        if biased:
            wanted["bias"] = (outputs,)
        for kind in sorted(kinds.keys() - wanted.keys()):
            raise Unsupported(
                f"{where} has a part {role}.{kind}",
                where=f"{where} {role}.{kind}",
                remedy="convert the checkpoint with --dtype bfloat16, if it can be",
            )
        for kind, shape in wanted.items():
            if kind not in kinds:
                raise _corrupt(f"{where} has no {role}.{kind}", where)
            found, dtype = kinds[kind]
            if found != shape:
                raise _corrupt(f"{role}.{kind} of {where} has shape {found}, not {shape}", where)
            if dtype not in (("U8",) if kind in ("blocks", "scales") else FLOATS):
                raise Unsupported(
                    f"{role}.{kind} of {where} has dtype {dtype}",
                    where=where,
                    remedy=f"convert it to one of {', '.join(FLOATS)}",
                )


def _wanted(kinds: Collection[str], outputs: int, inputs: int) -> dict[str, Shape]:
    """Kinds and shapes of a matrix, in the one of three layouts that is there."""
    if "blocks" in kinds:
        blocks = inputs // MXFP4_BLOCK
        return {"blocks": (outputs, blocks, MXFP4_BLOCK // 2), "scales": (outputs, blocks)}
    if "weight_transposed" in kinds:
        return {"weight_transposed": (inputs, outputs)}
    return {"weight": (outputs, inputs)}


def _corrupt(message: str, where: str) -> LiteLLMError:
    return Corrupt(message, where=where, remedy="fetch or convert the checkpoint again")
