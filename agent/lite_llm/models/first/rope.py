"""Rotary position embedding: each pair of dimensions turns with its own frequency.

Legend: T tokens, H heads, C dimensions of a head, P pairs of them (C / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """How frequencies are spaced and, for contexts longer than the original, scaled."""

    kind: str = "default"
    """``default``, ``linear`` or ``llama3``."""
    theta: float = 10000.0
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    original_context: float = 0.0
    """Tokens; of ``llama3`` alone."""


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines for the positions of one forward pass, shared by all layers."""

    cos_TC: Tensor
    sin_TC: Tensor

    def __call__(self, x_THC: Tensor) -> Tensor:
        first, second = x_THC.chunk(2, dim=-1)
        turned_THC = torch.cat((-second, first), dim=-1)
        return x_THC * self.cos_TC[:, None] + turned_THC * self.sin_TC[:, None]


def frequencies(config: RopeConfig, head_dim: int) -> Tensor:
    """Radians per position of each pair: ``[P]``, float32."""
    exponents_P = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain_P = 1.0 / config.theta**exponents_P
    if config.kind == "linear":
        return plain_P / config.factor
    if config.kind == "llama3":
        return _blended(plain_P, config)
    return plain_P


def rotation(frequencies_P: Tensor, positions_T: Tensor, dtype: torch.dtype) -> Rotation:
    """Angles are taken in float32: a half-precision position is wrong beyond 2,048."""
    angles_TP = positions_T.to(torch.float32)[:, None] * frequencies_P
    angles_TC = torch.cat((angles_TP, angles_TP), dim=-1)
    return Rotation(angles_TC.cos().to(dtype), angles_TC.sin().to(dtype))


def _blended(plain_P: Tensor, config: RopeConfig) -> Tensor:
    """Llama 3.1: short waves stay, long ones stretch by ``factor``, those between are mixed."""
    waves_P = config.original_context * plain_P / (2 * math.pi)  # waves within the old context
    low, high = config.low_frequency_factor, config.high_frequency_factor
    kept_P = ((waves_P - low) / (high - low)).clamp(0.0, 1.0)
    return kept_P * plain_P + (1 - kept_P) * plain_P / config.factor
