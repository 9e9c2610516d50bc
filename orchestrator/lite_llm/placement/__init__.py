"""The frozen view of the fleet, pure decisions on it, and the one writer of assignments."""

from lite_llm.placement.binder import Binder
from lite_llm.placement.observed import Observed
from lite_llm.placement.planner import Load, Plan, Serve, Wait, plan_for
from lite_llm.placement.view import ClusterView, advanced, snapshot
from lite_llm.placement.watcher import watching

__all__ = [
    "Binder",
    "ClusterView",
    "Load",
    "Observed",
    "Plan",
    "Serve",
    "Wait",
    "advanced",
    "plan_for",
    "snapshot",
    "watching",
]
