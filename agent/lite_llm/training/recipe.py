"""What is trained and how, as data: sizes of the model, and the run that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.tiers import Placement
from lite_llm.experts import TieredGate, TierGate
from lite_llm.models.hser import ARCHITECTURE, MODEL_TYPE

RMS_EPSILON: Final = 1e-5
ROPE_THETA: Final = 10000.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of an HSER model whose layers all have tiers."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    """Of an expert."""
    gate: TieredGate
    context: int
    """Tokens of a training sequence, and as many as are served."""

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads or self.head_dim % 2:
            raise InvalidSettings(
                f"{self.heads} heads over {self.kv_heads} don't fit hidden size {self.hidden}",
                where="heads",
                remedy="choose divisors that leave heads of even size",
            )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def experts(self) -> int:
        """Of a layer."""
        return sum(tier.experts for tier in self.gate.tiers)

    def architecture(self) -> dict[str, Any]:
        """The fields of ``config.json``; docs/hser.md says what they mean."""
        return {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "dtype": "float32",
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "max_position_embeddings": self.context,
            "moe_intermediate_size": self.inner,
            "norm_topk_prob": self.gate.normalized,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": RMS_EPSILON,
            "rope_theta": ROPE_THETA,
            "tie_word_embeddings": False,
            "tiers": [
                {
                    "name": name,
                    "groups": tier.groups,
                    "experts_per_group": tier.experts_per_group,
                    "top_k_groups": tier.top_k_groups,
                    "top_k_experts": tier.top_k_experts,
                }
                for name, tier in zip(tier_names(self.gate.tiers), self.gate.tiers, strict=True)
            ],
            "top_k_tiers": self.gate.top_k_tiers,
            "vocab_size": self.vocab,
        }


def tier_names(tiers: Sequence[TierGate]) -> list[str]:
    """A tier is called after where it is placed: hot first, and no two in one place."""
    return [Placement(number).name.lower() for number in range(len(tiers))]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; equal recipes and corpora give equal bytes on one machine."""

    shape: Shape
    steps: int
    horizon: int
    """Steps after which the cosine, and the load-balancing loss, would be down: no fewer than are
    made."""
    cooldown: int = 0
    """So many last steps, in which the rate falls in a line to nothing."""
    batch: int
    """Sequences a step."""
    peak_rate: float
    """Learning rate after the warm-up."""
    warmup_steps: int
    final_rate: float = 0.05
    """Where the cosine ends, as a share of the peak."""
    weight_decay: float = 0.1
    """Of matrices; norms have none."""
    clip_norm: float = 1.0
    """Of all gradients together."""
    balance: float = 0.05
    """Weight of the load-balancing loss at the start (SPEC-032)."""
    final_balance: float = 0.1
    """What is left of that weight at the end, as a share."""
    all_tiers: float = 0.5
    """Share of the sequences that may use every tier."""
    nearest_tiers: float = 0.3
    """Share that is left the nearest few, as fast, balanced and deep are; others get any few."""
    seed: int = 0
    shards: int = 2
    """Parts of a batch, each computed by one thread: as many as cores are to be busy."""


DEMO: Final = Recipe(
    shape=Shape(
        vocab=2048,
        hidden=128,
        layers=4,
        heads=2,
        kv_heads=1,
        inner=64,
        context=256,
        gate=TieredGate(
            tiers=(
                TierGate(groups=1, experts_per_group=4, top_k_experts=2),
                TierGate(groups=1, experts_per_group=4),
                TierGate(groups=2, experts_per_group=4),
                TierGate(groups=2, experts_per_group=8),
            ),
            top_k_tiers=4,
            normalized=True,
        ),
    ),
    steps=3000,
    horizon=3000,
    batch=8,
    peak_rate=5e-3,
    warmup_steps=30,
)
"""The bundled model's."""
