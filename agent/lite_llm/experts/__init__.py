"""Which experts a token uses, where they are, and what they make of it, in an order that nothing
can sway."""

from lite_llm.experts.activity import Activity
from lite_llm.experts.bank import Bank, ExpertWeights, Matrix, ResidentBank, Wave
from lite_llm.experts.compute import Gating, LayerExperts, Observer
from lite_llm.experts.events import Event, EventLog, Happening
from lite_llm.experts.expert_cache import ExpertCache
from lite_llm.experts.fetching import Tally
from lite_llm.experts.hierarchy import TieredGate, TieredRouter, TierGate
from lite_llm.experts.layout import check_layer, matrices_of, mxfp4
from lite_llm.experts.measures import ExpertMeasures
from lite_llm.experts.missing import ExpertAway, ExpertCorrupt
from lite_llm.experts.packing import Packing, packing_of
from lite_llm.experts.policies import DEFAULT, LRU, POLICIES, History, Policy, policy_named
from lite_llm.experts.prefetch import Ahead, Throttle
from lite_llm.experts.record_layout import converted
from lite_llm.experts.reduction import row_sum, sigmoid, softmax
from lite_llm.experts.replay import Lookahead, Workload, belady, contenders, replay
from lite_llm.experts.routing import Gate, GroupScore, Routed, Router, Scoring
from lite_llm.experts.selection import OfRows, ScoresNotFinite, TooFewExperts
from lite_llm.experts.settings import ExpertSettings
from lite_llm.experts.slot_table import Decision, Load, Place, PlaceLost, SlotTable
from lite_llm.experts.step_rows import StepRows
from lite_llm.experts.stored import FLOATS, STORED_DTYPES, tensor_of
from lite_llm.experts.tier_masks import TierMasks
from lite_llm.experts.ties import Level, Ties
from lite_llm.experts.traces import Trace, TraceRecorder
from lite_llm.experts.traces_synthetic import Statistics, synthetic_trace
from lite_llm.experts.tracing import Tracing

__all__ = [
    "DEFAULT",
    "FLOATS",
    "LRU",
    "POLICIES",
    "STORED_DTYPES",
    "Activity",
    "Ahead",
    "Bank",
    "Decision",
    "Event",
    "EventLog",
    "ExpertAway",
    "ExpertCache",
    "ExpertCorrupt",
    "ExpertMeasures",
    "ExpertSettings",
    "ExpertWeights",
    "Gate",
    "Gating",
    "GroupScore",
    "Happening",
    "History",
    "LayerExperts",
    "Level",
    "Load",
    "Lookahead",
    "Matrix",
    "Observer",
    "OfRows",
    "Packing",
    "Place",
    "PlaceLost",
    "Policy",
    "ResidentBank",
    "Routed",
    "Router",
    "ScoresNotFinite",
    "Scoring",
    "SlotTable",
    "Statistics",
    "StepRows",
    "Tally",
    "Throttle",
    "TierGate",
    "TierMasks",
    "TieredGate",
    "TieredRouter",
    "Ties",
    "TooFewExperts",
    "Trace",
    "TraceRecorder",
    "Tracing",
    "Wave",
    "Workload",
    "belady",
    "check_layer",
    "contenders",
    "converted",
    "matrices_of",
    "mxfp4",
    "packing_of",
    "policy_named",
    "replay",
    "row_sum",
    "sigmoid",
    "softmax",
    "synthetic_trace",
    "tensor_of",
]
