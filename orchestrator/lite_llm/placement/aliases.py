"""Names for models, and the steps by which a name moves from one model to another: all pure."""

from __future__ import annotations

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Conflict
from lite_llm.placement.view import ClusterView
from lite_llm.proto.v1.model_pb2 import Alias
from lite_llm.wire import ref_from_proto, ref_to_proto


def resolve(view: ClusterView, name: ModelRef) -> ModelRef:
    """The model that answers to ``name``; ``name`` itself if it is a model's own, or nobody's.

    A model's own name goes before an alias that was switched, and that before a name that models'
    specs declare; of several that declare it, one that is served answers, or the first by name.
    """
    if name in view.models:
        return name
    alias = view.aliases.get(name)
    if alias is not None and alias.HasField("target"):
        return ref_from_proto(alias.target)
    declaring = view.named.get(name, ())
    return min(declaring, key=lambda model: (not num_serving(view, model), model), default=name)


def num_serving(view: ClusterView, model: ModelRef) -> int:
    """Agents that a request for ``model`` can go to."""
    return sum(
        held.serves
        and node not in view.avoided
        and (agent := view.facts.get(node)) is not None
        and not agent.excluded
        for node, held in view.held.get(model, {}).items()
    )


def is_ready(view: ClusterView, model: ModelRef) -> bool:
    """Whether as many agents serve ``model`` as its spec says it has at least."""
    return num_serving(view, model) >= max(1, view.models[model].scaling.min_replicas)


def begin_switch(alias: Alias, target: ModelRef, now: float) -> None:
    """Have ``target`` answer as soon as it is ready; at once where nobody has answered yet."""
    alias.changed_at = now
    if not alias.HasField("target"):
        alias.target.CopyFrom(ref_to_proto(target))
        alias.reason = f"{target} answers"
    elif alias.target == ref_to_proto(target):
        _withdraw(alias, "nothing to switch")
    else:
        alias.next.CopyFrom(ref_to_proto(target))
        alias.reason = f"waits until {target} is served"


def finish_switch(alias: Alias, now: float) -> None:
    """The next model is ready."""
    alias.previous.CopyFrom(alias.target)
    alias.target.CopyFrom(alias.next)
    alias.ClearField("next")
    alias.changed_at = now
    alias.reason = f"switched from {ref_from_proto(alias.previous)}"


def begin_rollback(alias: Alias, now: float) -> None:
    """Back to the model before; a switch that is under way just ends. :class:`Conflict` if there
    was no model before."""
    alias.changed_at = now
    if alias.HasField("next"):
        _withdraw(alias, "the switch was withdrawn")
        return
    if not alias.HasField("previous"):
        raise Conflict(
            f"{ref_from_proto(alias.ref)} has had no other model",
            where="ref",
            remedy="switch it to the model that should answer",
        )
    begin_switch(alias, ref_from_proto(alias.previous), now)


def _withdraw(alias: Alias, why: str) -> None:
    alias.ClearField("next")
    alias.reason = f"{ref_from_proto(alias.target)} answers; {why}"
