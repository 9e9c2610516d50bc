"""Where a layer finds its experts' weights: all in memory, or a few of them at a time.

Legend: N outputs, K inputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lite_llm.contracts.errors import LiteLLMError
from lite_llm.experts.packing import Packing


@dataclass(frozen=True)
class Matrix:
    """One of an expert's products: rows of outputs over columns of inputs."""

    weight_NK: Tensor
    bias_N: Tensor | None = None


@dataclass(frozen=True)
class ExpertWeights:
    """``down(gating(gate(x), up(x)))``."""

    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Wave:
    """Some of the experts that were asked for, ready to run."""

    weights: Sequence[ExpertWeights]
    places: Sequence[int] | None = None
    """Ascending: which of those asked for these are; None for all of them."""


class NotThere(Exception):
    """Experts that could not be had, by their places among those asked for, and why.

    Raised behind the last wave; never leaves this room.
    """

    def __init__(self, errors: Mapping[int, LiteLLMError]) -> None:
        super().__init__(f"{len(errors)} experts could not be had")
        self.errors = errors


class Bank(Protocol):
    """One layer's experts, by their rows of the router."""

    def __len__(self) -> int:
        """How many there are."""

    def bring(self, packing: Packing) -> Generator[Wave, None, None]:
        """Waves that have each of the packing's experts once, those first that are there.

        Weights of a wave are good until the next one is asked for; ask for all, or close the
        generator. Raises :class:`NotThere` behind the last wave.
        """


class ResidentBank:
    """All experts are in memory."""

    def __init__(self, experts: Sequence[ExpertWeights]) -> None:
        self._experts = experts

    def __len__(self) -> int:
        return len(self._experts)

    def bring(self, packing: Packing) -> Generator[Wave, None, None]:
        """One wave."""
        yield Wave([self._experts[number] for number in packing.experts])
