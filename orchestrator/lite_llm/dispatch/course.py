"""Where one request has been, and where it goes next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import xxhash

from lite_llm.contracts import LiteLLMError
from lite_llm.dispatch.budgets import Tries
from lite_llm.placement import (
    ClusterView,
    Plan,
    PrefixIndex,
    Serve,
    Weights,
    Wish,
    plan_for,
    prefix_hashes,
)
from lite_llm.proto.v1.generate_pb2 import GenerateStart
from lite_llm.wire import ref_from_proto


class Course:
    """Of one request."""

    def __init__(self, start: GenerateStart, tries: Tries, desk: Desk) -> None:
        self.model = ref_from_proto(start.model)
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
        self._desk = desk
        self._prefix = prefix_hashes(start)
        self._seed = xxhash.xxh3_64_intdigest(start.request_id.encode())

    def wish(self) -> Wish:
        """What matters about the request by now."""
        return Wish(
            shunned=self.shunned,
            digest=self.digest,
            hits=self._desk.prefixes.hits(self._prefix) if self._prefix else {},
            pending=self._desk.pending,
            seed=self._seed,
            weights=self._desk.weights,
        )

    def plan(self, view: ClusterView) -> Plan:
        """Where to go on ``view``; raises what makes that pointless, or the fault before it."""
        try:
            return plan_for(view, self.model, self.wish())
        except LiteLLMError as error:
            raise (self.fault or error) from error

    def has_other(self, view: ClusterView) -> bool:
        """Whether an agent serves the model that neither refused nor failed."""
        try:
            plan = self.plan(view)
        except LiteLLMError:
            return False
        return isinstance(plan, Serve) and plan.agent.node not in self.shunned

    @contextmanager
    def sent_to(self, node: str) -> Iterator[Callable[[], None]]:
        """The request is on its way there; call what is yielded when the agent has begun."""
        begun = False

        def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                self._desk.arrived(node)

        self._desk.pending[node] = self._desk.pending.get(node, 0) + 1
        self._desk.prefixes.add(self._prefix, node)
        try:
            yield begin
        finally:
            begin()


class Desk:
    """What one orchestrator remembers of where it sent requests."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.prefixes = PrefixIndex()
        self.pending: dict[str, int] = {}
        """Requests that agents have not begun with, by node."""

    def arrived(self, node: str) -> None:
        """An agent has begun with a request, or never will."""
        self.pending[node] -= 1
        if not self.pending[node]:
            del self.pending[node]
