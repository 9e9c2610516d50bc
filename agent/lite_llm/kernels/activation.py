"""Gated activations. Legend: T rows, F inner size."""

from __future__ import annotations

from enum import StrEnum

from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import rowwise
from lite_llm.kernels.cuda_tensors import on_gpu
from lite_llm.kernels.threads import chunk_rows
from lite_llm.kernels.vector import KINDS


class Activation(StrEnum):
    """By the names of Hugging Face's ``hidden_act``."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_pytorch_tanh"


_CODES = {
    Activation.SILU: rowwise.SILU,
    Activation.GELU: rowwise.GELU,
    Activation.GELU_TANH: rowwise.GELU_TANH,
}


def gated(gate_TF: Tensor, up_TF: Tensor, activation: Activation) -> Tensor:
    """``activation(gate) * up``, rounded to x's dtype after each step."""
    if on_gpu(gate_TF, up_TF) and gate_TF.dim() == 2 and up_TF.shape == gate_TF.shape:
        from lite_llm.kernels import triton_rowwise

        return triton_rowwise.gated(gate_TF, up_TF, _CODES[activation])
    if not (gate_TF.is_cpu and gate_TF.dtype in KINDS and gate_TF.dim() == 2):
        return _reference(gate_TF, up_TF, activation)
    if up_TF.shape != gate_TF.shape or up_TF.dtype is not gate_TF.dtype:
        raise ValueError("a gate and what it gates have one shape and dtype")
    gate_TF, up_TF = (x if x.stride(1) == 1 else x.contiguous() for x in (gate_TF, up_TF))
    rows, size = gate_TF.shape
    out_TF = gate_TF.new_empty((rows, size))
    chunk = chunk_rows(rows, size)
    step = gate_TF.element_size()
    rowwise.gate.run(
        -(-rows // chunk),
        16 * rows * size,
        gate_TF.data_ptr(),
        gate_TF.stride(0) * step,
        up_TF.data_ptr(),
        up_TF.stride(0) * step,
        out_TF.data_ptr(),
        size,
        KINDS[gate_TF.dtype],
        _CODES[activation],
        rows,
        chunk,
    )
    return out_TF


def _reference(gate_TF: Tensor, up_TF: Tensor, activation: Activation) -> Tensor:
    match activation:
        case Activation.SILU:
            return functional.silu(gate_TF) * up_TF
        case Activation.GELU:
            return functional.gelu(gate_TF) * up_TF
        case Activation.GELU_TANH:
            return functional.gelu(gate_TF, approximate="tanh") * up_TF
