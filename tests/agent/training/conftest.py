"""A small shape, and parameters that are no longer at zero."""

from __future__ import annotations

import pytest
import torch

from lite_llm.experts import TieredGate, TierGate
from lite_llm.training import Recipe, Shape
from lite_llm.training.hser_model import Parameters, new_parameters

SHAPE = Shape(
    vocab=300,
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    inner=16,
    context=32,
    gate=TieredGate(
        tiers=(
            TierGate(groups=1, experts_per_group=3, top_k_experts=2),
            TierGate(groups=2, experts_per_group=2),
            TierGate(groups=3, experts_per_group=2, top_k_groups=2),
        ),
        top_k_tiers=2,
        normalized=True,
    ),
)


@pytest.fixture
def shape() -> Shape:
    return SHAPE


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(shape=SHAPE, steps=6, horizon=6, batch=4, peak_rate=1e-2, warmup_steps=2)


@pytest.fixture
def parameters() -> Parameters:
    """As training might have left them: nothing is zero or one any more."""
    random = torch.Generator().manual_seed(3)
    made = new_parameters(SHAPE, seed=1)
    return {
        name: tensor.detach() + torch.randn(tensor.shape, generator=random) * 0.1
        for name, tensor in made.items()
    }
