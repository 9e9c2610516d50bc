"""AdamW with a warm-up and a cosine, and gradients clipped together (SPEC-034)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lite_llm.training.recipe import Recipe


def learning_rate(step: int, recipe: Recipe) -> float:
    """Of the ``step``-th update, from 0: up in a line, down half a cosine, to zero in a line."""
    left = (recipe.steps - step) / recipe.cooldown if recipe.cooldown else 1.0
    return _cosine(step, recipe) * min(left, 1.0)


def _cosine(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(recipe.horizon - recipe.warmup_steps, 1)
    cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return recipe.peak_rate * (recipe.final_rate + (1 - recipe.final_rate) * cosine)


class AdamW:
    """Loshchilov and Hutter's, over named float32 tensors, whose state is named alike."""

    BETAS = 0.9, 0.95
    EPSILON = 1e-9

    def __init__(self, parameters: Mapping[str, Tensor], recipe: Recipe) -> None:
        self._parameters, self._recipe = parameters, recipe
        self.first = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> float:
        """Apply the gradients and forget them; the norm they had together before clipping."""
        recipe, (decay_first, decay_second) = self._recipe, self.BETAS
        rate = learning_rate(step, recipe)
        names = [name for name, tensor in self._parameters.items() if tensor.grad is not None]
        tensors = [self._parameters[name] for name in names]
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        first, second = ([state[name] for name in names] for state in (self.first, self.second))
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        torch._foreach_lerp_(first, gradients, 1 - decay_first)
        torch._foreach_mul_(second, decay_second)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - decay_second)
        matrices = [tensor for tensor in tensors if tensor.dim() > 1]
        torch._foreach_mul_(matrices, 1 - rate * recipe.weight_decay)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, math.sqrt(1 - decay_second ** (step + 1)))
        torch._foreach_add_(root, self.EPSILON)
        torch._foreach_addcdiv_(tensors, first, root, -rate / (1 - decay_first ** (step + 1)))
        for tensor in tensors:
            tensor.grad = None
        return float(norm)
