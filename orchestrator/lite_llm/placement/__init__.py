"""The frozen view of the fleet, pure decisions on it, and the one writer of assignments."""

from lite_llm.placement.aliases import resolve
from lite_llm.placement.binder import Binder
from lite_llm.placement.observed import Observed
from lite_llm.placement.planner import Load, Plan, Serve, Wait, plan_for
from lite_llm.placement.prefixes import PrefixIndex, prefix_hashes
from lite_llm.placement.scoring import DEFAULT_WEIGHTS, Weights, Wish, explained
from lite_llm.placement.view import ClusterView, advanced, snapshot, view_of
from lite_llm.placement.watcher import watching

__all__ = [
    "DEFAULT_WEIGHTS",
    "Binder",
    "ClusterView",
    "Load",
    "Observed",
    "Plan",
    "PrefixIndex",
    "Serve",
    "Wait",
    "Weights",
    "Wish",
    "advanced",
    "explained",
    "plan_for",
    "prefix_hashes",
    "resolve",
    "snapshot",
    "view_of",
    "watching",
]
