"""Who serves a request and who loads a model: pure decisions on one view."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import ModelNotFound, VersionMismatch
from lite_llm.placement.sources import is_under_way, source_to_load
from lite_llm.placement.view import ClusterView
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.wire.values import state_from_proto


@dataclass(frozen=True, slots=True)
class Serve:
    """The model is Active there: send the request."""

    agent: AgentStatus
    digest: str = ""
    """Of the checkpoint there; empty if it does not tell."""


@dataclass(frozen=True, slots=True)
class Load:
    """Nobody serves the model and nobody loads it: this agent should."""

    agent: AgentStatus
    spec: ModelSpec
    """With the source that the agent is to load from."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before the view changes."""

    reason: str
    """Words for people."""
    loading: bool
    """Whether a load is under way; else there is no agent that could do one."""


Plan = Serve | Load | Wait


def plan_for(
    view: ClusterView, model: ModelRef, *, shunned: Collection[str] = (), digest: str = ""
) -> Plan:
    """What to do with a request for ``model``; :class:`ModelNotFound` if nobody declared it.

    ``shunned`` agents serve only where no other does. With a ``digest``, which an answer began
    with, :class:`VersionMismatch` if all who serve the model serve another checkpoint.
    """
    if not view.is_synced:
        return Wait("the metadata store has not answered yet", loading=False)
    spec = view.models.get(model)
    if spec is None:
        raise ModelNotFound(
            f"the model {model} does not exist", where="model", remedy="GET /v1/models lists all"
        )
    if serving := _serving(view, model):
        alike = [serve for serve in serving if not digest or serve.digest in ("", digest)]
        if not alike:
            raise VersionMismatch(
                f"{model} is another checkpoint now than the answer began with",
                where=str(model),
                remedy="ask again",
            )
        return min(alike, key=lambda serve: _order(serve.agent, shunned))
    if claims := view.assignments.get(model):
        return Wait(f"{min(claims)} is loading {model}", loading=True)
    ingestion = view.ingestions.get(model)
    if ingestion is not None and is_under_way(spec, ingestion):
        return Wait(ingestion.reason, loading=True)
    if able := [agent for agent in view.agents.values() if _is_able(agent, view)]:
        agent = _emptiest(able, view, shunned)
        return Load(agent, _with_source(spec, source_to_load(spec, ingestion)))
    return Wait("no agent is healthy and takes new models", loading=False)


def _serving(view: ClusterView, model: ModelRef) -> list[Serve]:
    return [
        Serve(agent, residency.checkpoint_digest)
        for node, residency in view.residencies.get(model, {}).items()
        if state_from_proto(residency.state).takes_requests
        and (agent := view.agents.get(node)) is not None
        and _is_able(agent, view)
    ]


def _is_able(agent: AgentStatus, view: ClusterView) -> bool:
    return agent.health.healthy and not agent.draining and agent.node not in view.avoided


def _order(agent: AgentStatus, shunned: Collection[str]) -> tuple[bool, int, str]:
    return agent.node in shunned, _requests(agent), agent.node


def _with_source(spec: ModelSpec, source: ModelSource) -> ModelSpec:
    if source is spec.source or source == spec.source:
        return spec
    moved = ModelSpec()
    moved.CopyFrom(spec)
    moved.source.CopyFrom(source)
    return moved


def _emptiest(
    agents: Iterable[AgentStatus], view: ClusterView, shunned: Collection[str]
) -> AgentStatus:
    models: dict[str, int] = {}
    for held in (*view.residencies.values(), *view.assignments.values()):
        for node in held:
            models[node] = models.get(node, 0) + 1
    return min(agents, key=lambda agent: (models.get(agent.node, 0), *_order(agent, shunned)))


def _requests(agent: AgentStatus) -> int:
    return agent.running_requests + agent.waiting_requests
