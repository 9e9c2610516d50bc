"""Who serves a request and who loads a model: pure decisions on one view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import ModelNotFound
from lite_llm.placement.view import ClusterView
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire.values import state_from_proto


@dataclass(frozen=True, slots=True)
class Serve:
    """The model is Active there: send the request."""

    agent: AgentStatus


@dataclass(frozen=True, slots=True)
class Load:
    """Nobody serves the model and nobody loads it: this agent should."""

    agent: AgentStatus
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before the view changes."""

    reason: str
    """Words for people."""
    loading: bool
    """Whether a load is under way; else there is no agent that could do one."""


Plan = Serve | Load | Wait


def plan_for(view: ClusterView, model: ModelRef) -> Plan:
    """What to do with a request for ``model``; :class:`ModelNotFound` if nobody declared it."""
    if not view.is_synced:
        return Wait("the metadata store has not answered yet", loading=False)
    spec = view.models.get(model)
    if spec is None:
        raise ModelNotFound(
            f"the model {model} does not exist", where="model", remedy="GET /v1/models lists all"
        )
    if serving := _serving(view, model):
        return Serve(min(serving, key=lambda agent: (_requests(agent), agent.node)))
    if claims := view.assignments.get(model):
        return Wait(f"{min(claims)} is loading {model}", loading=True)
    if able := [agent for agent in view.agents.values() if _is_able(agent)]:
        return Load(_emptiest(able, view), spec)
    return Wait("no agent is healthy and takes new models", loading=False)


def _serving(view: ClusterView, model: ModelRef) -> list[AgentStatus]:
    return [
        agent
        for node, residency in view.residencies.get(model, {}).items()
        if state_from_proto(residency.state).takes_requests
        and (agent := view.agents.get(node)) is not None
        and _is_able(agent)
    ]


def _is_able(agent: AgentStatus) -> bool:
    return agent.health.healthy and not agent.draining


def _emptiest(agents: Iterable[AgentStatus], view: ClusterView) -> AgentStatus:
    models: dict[str, int] = {}
    for held in (*view.residencies.values(), *view.assignments.values()):
        for node in held:
            models[node] = models.get(node, 0) + 1
    return min(agents, key=lambda agent: (models.get(agent.node, 0), _requests(agent), agent.node))


def _requests(agent: AgentStatus) -> int:
    return agent.running_requests + agent.waiting_requests
