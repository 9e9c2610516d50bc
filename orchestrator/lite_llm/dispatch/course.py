"""Where one request has been, and where it goes next."""

from __future__ import annotations

import math

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.dispatch.budgets import Tries
from lite_llm.placement import ClusterView, Plan, Serve, plan_for


class Course:
    """Of one request."""

    def __init__(self, model: ModelRef, tries: Tries) -> None:
        self.model = model
        self.tries = tries
        self.fault: LiteLLMError | None = None
        """The last one; a client that waits for a way round it hears of it if there is none."""
        self.refused_at = math.inf
        """Time of the first refusal since the last fault, on the loop's clock."""
        self.digest = ""
        """Of the checkpoint that the answer began with: no other may go on with it."""
        self.held_seconds = 0.0
        """That it waited for its model to load."""
        self.shunned: set[str] = set()
        """Agents that refused or failed it: gone to again only when there is no other."""

    def plan(self, view: ClusterView) -> Plan:
        """Where to go on ``view``; raises what makes that pointless, or the fault before it."""
        try:
            return plan_for(view, self.model, shunned=self.shunned, digest=self.digest)
        except LiteLLMError as error:
            raise (self.fault or error) from error

    def has_other(self, view: ClusterView) -> bool:
        """Whether an agent serves the model that neither refused nor failed."""
        try:
            plan = self.plan(view)
        except LiteLLMError:
            return False
        return isinstance(plan, Serve) and plan.agent.node not in self.shunned
