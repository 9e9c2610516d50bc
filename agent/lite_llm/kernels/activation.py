"""Gated activations. Legend: T rows, F inner size."""

from __future__ import annotations

from enum import StrEnum

from torch import Tensor
from torch.nn import functional


class Activation(StrEnum):
    """By the names of Hugging Face's ``hidden_act``."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_pytorch_tanh"


def gated(gate_TF: Tensor, up_TF: Tensor, activation: Activation) -> Tensor:
    """``activation(gate) * up``, rounded to x's dtype after each step."""
    match activation:
        case Activation.SILU:
            return functional.silu(gate_TF) * up_TF
        case Activation.GELU:
            return functional.gelu(gate_TF) * up_TF
        case Activation.GELU_TANH:
            return functional.gelu(gate_TF, approximate="tanh") * up_TF
