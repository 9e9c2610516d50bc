"""What all programs agree on: identities, tiers, states, keys and errors. Standard library only."""

from lite_llm.contracts.errors import LiteLLMError
from lite_llm.contracts.identity import DEFAULT_NAMESPACE, ExpertKey, ModelRef
from lite_llm.contracts.outcomes import Outcome, outcome_of
from lite_llm.contracts.resources import Budget, format_size, parse_size
from lite_llm.contracts.states import ModelEvent, ModelState, Step, step
from lite_llm.contracts.tiers import Medium, Placement, Tier, TierMode, TierSet

__all__ = [
    "DEFAULT_NAMESPACE",
    "Budget",
    "ExpertKey",
    "LiteLLMError",
    "Medium",
    "ModelEvent",
    "ModelRef",
    "ModelState",
    "Outcome",
    "Placement",
    "Step",
    "Tier",
    "TierMode",
    "TierSet",
    "format_size",
    "outcome_of",
    "parse_size",
    "step",
]
