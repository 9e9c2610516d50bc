"""The view as clients see it: whole, and by what changed."""

from __future__ import annotations

from collections.abc import Iterable

from lite_llm.contracts import ModelRef
from lite_llm.placement import ClusterView
from lite_llm.proto.v1.orchestrator_pb2 import ModelView, ViewEvent
from lite_llm.wire import ref_to_proto


def model_views(view: ClusterView, models: Iterable[ModelRef]) -> list[ModelView]:
    """Of these models, by name."""
    return [
        ModelView(
            spec=view.models[model],
            residencies=[held for _, held in sorted(view.residencies.get(model, {}).items())],
            scaling=view.scalings.get(model),
            ingestion=view.ingestions.get(model),
        )
        for model in sorted(models)
    ]


def difference(old: ClusterView, new: ClusterView) -> ViewEvent:
    """What tells whoever knows ``old`` how ``new`` is. Views share what did not change."""
    changed = {
        model
        for model, spec in new.models.items()
        if spec is not old.models.get(model)
        or new.residencies.get(model) is not old.residencies.get(model)
        or new.scalings.get(model) is not old.scalings.get(model)
        or new.ingestions.get(model) is not old.ingestions.get(model)
    }
    return ViewEvent(
        view_revision=new.revision,
        models=model_views(new, changed),
        agents=[
            agent for node, agent in sorted(new.agents.items()) if agent is not old.agents.get(node)
        ],
        removed_models=[
            ref_to_proto(model) for model in sorted(old.models.keys() - new.models.keys())
        ],
        removed_agents=sorted(old.agents.keys() - new.agents.keys()),
    )


def is_empty(event: ViewEvent) -> bool:
    """Whether nothing changed that clients are told of."""
    return not (event.models or event.agents or event.removed_models or event.removed_agents)
