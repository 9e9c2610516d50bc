"""Which tokens and which tiers a step sees: a pure function of seed and step, so that a run can go
on anywhere.

Legend: N tokens of the corpus, B sequences, L tokens of one, I tiers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.training.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    inputs_BL: Tensor
    targets_BL: Tensor
    """The token after each."""
    allowed_BI: Tensor
    """Tiers that each sequence may use."""

    def split(self, parts: int) -> list[Batch]:
        """Every ``parts``-th sequence, from the first, the second and so on."""
        return [
            Batch(self.inputs_BL[at::parts], self.targets_BL[at::parts], self.allowed_BI[at::parts])
            for at in range(parts)
        ]


class Batches:
    """Sequences of the corpus, every one once an epoch, cut at another place in each."""

    def __init__(self, tokens_N: Tensor, recipe: Recipe) -> None:
        """Raises :class:`InvalidSettings` for fewer tokens than two sequences have."""
        self._tokens_N, self._recipe = tokens_N, recipe
        self._length = recipe.shape.context
        self._order: tuple[int, int, list[int]] = -1, 0, []
        self.per_epoch = (len(tokens_N) - 1) // self._length - 1
        if self.per_epoch < 1:
            raise InvalidSettings(
                f"{len(tokens_N)} tokens are too few for sequences of {self._length}",
                where="corpus",
                remedy="take a larger corpus or a shorter context",
            )

    def __getitem__(self, step: int) -> Batch:
        batch = self._recipe.batch
        starts = [self._start(number) for number in range(step * batch, (step + 1) * batch)]
        rows = torch.stack([self._tokens_N[at : at + self._length + 1] for at in starts])
        return Batch(rows[:, :-1], rows[:, 1:], self._tier_sets(step))

    def _start(self, number: int) -> int:
        """Where the ``number``-th sequence of the run begins."""
        epoch, place = divmod(number, self.per_epoch)
        if self._order[0] != epoch:
            random = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
            shift = int(torch.randint(self._length, (), generator=random))
            self._order = epoch, shift, torch.randperm(self.per_epoch, generator=random).tolist()
        _, shift, order = self._order
        return int(shift + order[place] * self._length)

    def _tier_sets(self, step: int) -> Tensor:
        """Each sequence's: all tiers, the nearest few, or any few (tier dropout)."""
        recipe = self._recipe
        batch, tiers = recipe.batch, len(recipe.shape.gate.tiers)
        random = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + (1 << 40))
        kind_B1 = torch.rand(batch, 1, generator=random)
        number_I = torch.arange(tiers)
        nearest_BI = number_I <= torch.randint(max(tiers - 1, 1), (batch, 1), generator=random)
        any_B1 = torch.randint(1, 1 << tiers, (batch, 1), generator=random)
        any_BI = (any_B1 >> number_I & 1).bool()
        few_BI = torch.where(kind_B1 < recipe.all_tiers + recipe.nearest_tiers, nearest_BI, any_BI)
        return few_BI | (kind_B1 < recipe.all_tiers)
