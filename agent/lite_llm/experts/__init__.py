"""Which experts a token uses, in an order that nothing can sway, and what they make of it."""

from lite_llm.experts.activity import Activity
from lite_llm.experts.compute import ExpertWeights, Gating, LayerExperts, Matrix
from lite_llm.experts.hierarchy import TieredGate, TieredRouter, TierGate
from lite_llm.experts.layout import check_layer, matrices_of, mxfp4
from lite_llm.experts.packing import Packing, packing_of
from lite_llm.experts.reduction import row_sum, sigmoid, softmax
from lite_llm.experts.routing import Gate, GroupScore, Routed, Router, Scoring
from lite_llm.experts.selection import ScoresNotFinite, TooFewExperts
from lite_llm.experts.tier_masks import TierMasks
from lite_llm.experts.ties import Level, Ties

__all__ = [
    "Activity",
    "ExpertWeights",
    "Gate",
    "Gating",
    "GroupScore",
    "LayerExperts",
    "Level",
    "Matrix",
    "Packing",
    "Routed",
    "Router",
    "ScoresNotFinite",
    "Scoring",
    "TierGate",
    "TierMasks",
    "TieredGate",
    "TieredRouter",
    "Ties",
    "TooFewExperts",
    "check_layer",
    "matrices_of",
    "mxfp4",
    "packing_of",
    "row_sum",
    "sigmoid",
    "softmax",
]
