"""Rotary position embedding: each pair of dimensions turns with its own frequency.

Frequencies are computed in float32, step by step as transformers does, so that they have its bits.
Legend: T rows, B positions of a block, R dimensions turned, P pairs of them (R / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 1024
"""Positions whose angles are computed at once, always these together: the bits of an angle then
don't depend on which others were asked for."""


@dataclass(frozen=True)
class Linear:
    """Positions divided by ``factor`` (Chen et al., 2023)."""

    factor: float


@dataclass(frozen=True)
class Llama3:
    """Short waves stay, long ones stretch by ``factor``, those between are mixed (Llama 3.1)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True)
class Yarn:
    """As Llama3, mixed by dimension (Peng et al., 2023)."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Round the borders of the mixed range to whole dimensions."""


@dataclass(frozen=True)
class LongRope:
    """Each frequency divided by a factor of its own (Ding et al., 2024)."""

    factors: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """How the frequencies of some layers are spaced."""

    dim: int
    """Dimensions of a head that are turned, the first ones; the others pass."""
    theta: float = 10000.0
    scaling: Linear | Llama3 | Yarn | LongRope | None = None
    attention_factor: float = 1.0
    """Multiplies cosines and sines."""


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of each row of a step, float32, both halves alike."""

    cos_TR: Tensor
    sin_TR: Tensor


class RopeTable:
    """Cosines and sines of the positions asked for so far; for one thread at a time.

    Computed by the CPU whatever the device, so that every device turns by the same angles.
    """

    def __init__(self, config: RopeConfig) -> None:
        self._config = config
        self._frequencies_P: Tensor | None = None
        self._cos_NR = torch.empty(0, config.dim)
        self._sin_NR = torch.empty(0, config.dim)
        self._reserved = False

    def reserve(self, num_positions: int, device: torch.device) -> None:
        """Make room for so many positions; from now on the table stays where it is.

        Positions are not looked at any more, which a device would have to be waited for.
        """
        self._grow(num_positions, device)
        self._reserved = True

    def __call__(self, positions_T: Tensor) -> Rotation:
        """For positions from 0 on, int64."""
        if not self._reserved and len(positions_T):
            last = int(positions_T.max())
            if last >= len(self._cos_NR):
                self._grow(last + 1, positions_T.device)
        return Rotation(self._cos_NR[positions_T], self._sin_NR[positions_T])

    def _grow(self, num_positions: int, device: torch.device) -> None:
        if self._frequencies_P is None:
            self._frequencies_P = frequencies(self._config)
        cosines, sines = [self._cos_NR.to(device)], [self._sin_NR.to(device)]
        # Twice the room each time, so that a long answer copies the table only now and then.
        for start in range(len(self._cos_NR), max(num_positions, 2 * len(self._cos_NR)), _BLOCK):
            positions_B = torch.arange(start, start + _BLOCK, dtype=torch.float32)
            angles_BP = positions_B[:, None] * self._frequencies_P
            angles_BR = torch.cat((angles_BP, angles_BP), dim=-1)
            cosines.append((angles_BR.cos() * self._config.attention_factor).to(device))
            sines.append((angles_BR.sin() * self._config.attention_factor).to(device))
        self._cos_NR, self._sin_NR = torch.cat(cosines), torch.cat(sines)


def frequencies(config: RopeConfig) -> Tensor:
    """Radians per position of each pair: ``[P]``, float32."""
    steps_P = torch.arange(0, config.dim, 2, dtype=torch.float32) / config.dim
    waves_P = config.theta**steps_P
    match config.scaling:
        case None:
            return 1.0 / waves_P
        case Linear(factor):
            return (1.0 / waves_P) / factor
        case LongRope(factors):
            return 1.0 / (torch.tensor(factors, dtype=torch.float32) * waves_P)
        case Llama3() as scaling:
            return _llama3(1.0 / waves_P, scaling)
        case Yarn() as scaling:
            return _yarn(waves_P, config, scaling)


def _llama3(plain_P: Tensor, scaling: Llama3) -> Tensor:
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    length_P = 2 * math.pi / plain_P
    is_long_P = length_P > scaling.original_context / low
    is_short_P = length_P < scaling.original_context / high
    kept_P = (scaling.original_context / length_P - low) / (high - low)
    mixed_P = (1 - kept_P) * plain_P / scaling.factor + kept_P * plain_P
    scaled_P = torch.where(is_long_P, plain_P / scaling.factor, plain_P)
    return torch.where(is_long_P | is_short_P, scaled_P, mixed_P)


def _yarn(waves_P: Tensor, config: RopeConfig, scaling: Yarn) -> Tensor:
    def dimension_of(turns: float) -> float:  # that turns so often within the original context
        length = scaling.original_context / (turns * 2 * math.pi)
        return (config.dim * math.log(length)) / (2 * math.log(config.theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dim - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp, without dividing by zero
    ramp_P = torch.arange(config.dim // 2, dtype=torch.float32)
    kept_P = 1 - ((ramp_P - low) / (high - low)).clamp(0, 1)
    return 1.0 / (scaling.factor * waves_P) * (1 - kept_P) + 1.0 / waves_P * kept_P
