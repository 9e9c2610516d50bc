"""Which experts a token uses, in an order that nothing can sway, and what they make of it."""

from lite_llm.experts.activity import Activity
from lite_llm.experts.compute import Expert, Gating, run_experts
from lite_llm.experts.hierarchy import TieredGate, TieredRouter, TierGate
from lite_llm.experts.packing import Packing, packing_of
from lite_llm.experts.reduction import row_sum, sigmoid, softmax
from lite_llm.experts.routing import Gate, GroupScore, Routed, Router, Scoring
from lite_llm.experts.selection import ScoresNotFinite, TooFewExperts
from lite_llm.experts.ties import Level, Ties

__all__ = [
    "Activity",
    "Expert",
    "Gate",
    "Gating",
    "GroupScore",
    "Level",
    "Packing",
    "Routed",
    "Router",
    "ScoresNotFinite",
    "Scoring",
    "TierGate",
    "TieredGate",
    "TieredRouter",
    "Ties",
    "TooFewExperts",
    "packing_of",
    "row_sum",
    "run_experts",
    "sigmoid",
    "softmax",
]
