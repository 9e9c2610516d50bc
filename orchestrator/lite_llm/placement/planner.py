"""Who serves a request and who loads a model: pure decisions on one view."""

from __future__ import annotations

from dataclasses import dataclass

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import ModelNotFound, VersionMismatch
from lite_llm.placement.scoring import Wish, able, best, best_serving
from lite_llm.placement.sources import is_under_way, loadable
from lite_llm.placement.view import ClusterView
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.model_pb2 import ModelSpec


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


ANY = Wish()


def plan_for(view: ClusterView, model: ModelRef, wish: Wish = ANY) -> Plan:
    """What to do with a request for ``model``; :class:`ModelNotFound` if nobody declared it.

    :class:`VersionMismatch` if all who serve the model serve another checkpoint than the one that
    the answer began with.
    """
    if not view.is_synced:
        return Wait("the metadata store has not answered yet", loading=False)
    spec = view.models.get(model)
    if spec is None:
        raise ModelNotFound(
            f"the model {model} does not exist", where="model", remedy="GET /v1/models lists all"
        )
    if (node := _serving(view, model, wish)) is not None:
        return Serve(view.agents[node], view.held[model][node].digest)
    if claims := view.assignments.get(model):
        return Wait(f"{min(claims)} is loading {model}", loading=True)
    ingestion = view.ingestions.get(model)
    if ingestion is not None and is_under_way(spec, ingestion):
        return Wait(ingestion.reason, loading=True)
    if chosen := best(view, model, able(view, model), wish):
        agent = view.agents[chosen.node]
        return Load(agent, loadable(spec, ingestion))
    return Wait(_nobody(view, model), loading=False)


def _serving(view: ClusterView, model: ModelRef, wish: Wish) -> str | None:
    """The agent to serve a request; None if none can."""
    if not wish.digest:
        return best_serving(view, model, wish, view.avoided)
    held = view.held.get(model, {})
    others = {node for node in held if held[node].digest not in ("", wish.digest)}
    node = best_serving(view, model, wish, view.avoided | others)
    if node is None and best_serving(view, model, wish, view.avoided) is not None:
        raise VersionMismatch(
            f"{model} is another checkpoint now than the answer began with",
            where=str(model),
            remedy="ask again",
        )
    return node


def _nobody(view: ClusterView, model: ModelRef) -> str:
    labels = view.models[model].agent_labels
    if not labels:
        return "no agent is healthy and takes new models"
    wanted = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"no agent with {wanted} is healthy and takes new models"
