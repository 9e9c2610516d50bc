"""Who serves and who loads: one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lite_llm.contracts import ModelRef, ModelState
from lite_llm.contracts.errors import ModelNotFound
from lite_llm.placement import ClusterView, Load, Serve, Wait, plan_for, view_of
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment, Health, Residency
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire.values import state_to_proto

MODEL, OTHER = ModelRef("default", "wanted"), ModelRef("default", "other")
SPEC = ModelSpec(generation=7)


def fleet(**nodes: Mapping[str, Any]) -> dict[str, AgentStatus]:
    """Healthy agents by name, with these fields."""
    return {
        name: AgentStatus(**{"node": name, "health": Health(healthy=True), **fields})
        for name, fields in nodes.items()
    }


def seen(
    agents: Mapping[str, AgentStatus],
    residencies: Mapping[ModelRef, Mapping[str, Residency]],
    assignments: Mapping[ModelRef, Mapping[str, Assignment]] | None = None,
) -> ClusterView:
    return view_of(
        5,
        models={MODEL: SPEC},
        agents=agents,
        residencies=residencies,
        assignments=assignments,
    )


def held(**states: ModelState) -> dict[str, Residency]:
    return {
        name: Residency(node=name, state=state_to_proto(state)) for name, state in states.items()
    }


ACTIVE, WARM, FROZEN = ModelState.ACTIVE, ModelState.WARM, ModelState.FROZEN
SICK: dict[str, Any] = {"health": Health(healthy=False, reason="disk full")}
DRAINING = {"draining": True}


@pytest.mark.parametrize(
    ("agents", "residencies", "plan"),
    [
        pytest.param(fleet(a={}), held(a=ACTIVE), "serve a", id="the only one"),
        pytest.param(
            fleet(a={"running_requests": 2}, b={"running_requests": 1, "waiting_requests": 0}),
            held(a=ACTIVE, b=ACTIVE), "serve b", id="fewest requests",
        ),
        pytest.param(
            fleet(a={"running_requests": 1, "waiting_requests": 3}, b={"running_requests": 3}),
            held(a=ACTIVE, b=ACTIVE), "serve b", id="waiting requests count too",
        ),
        pytest.param(
            fleet(a={}, b={"running_requests": 9}), held(b=ModelState.EXPANDING), "serve b",
            id="expanding serves, however busy",
        ),
        pytest.param(fleet(a={}, b=SICK), held(b=ACTIVE), "load a", id="sick agents serve nobody"),
        pytest.param(fleet(a={}, b=DRAINING), held(b=ACTIVE), "load a", id="nor do draining ones"),
        pytest.param(fleet(a={}), held(gone=ACTIVE), "load a", id="nor those that are gone"),
        pytest.param(fleet(a={}), held(a=WARM), "load a", id="warm is not active"),
        pytest.param(fleet(a={}), held(a=FROZEN), "load a", id="frozen takes nothing new"),
        pytest.param(
            fleet(a={"running_requests": 1}, b={}), {}, "load b", id="load where least runs"
        ),
        pytest.param({}, {}, "wait", id="nobody there"),
        pytest.param(fleet(a=SICK, b=DRAINING), {}, "wait", id="nobody able"),
    ],
)  # fmt: skip
def test_plan(agents: dict[str, AgentStatus], residencies: dict[str, Residency], plan: str) -> None:
    view = seen(agents, {MODEL: residencies})
    match plan_for(view, MODEL):
        case Serve(agent):
            assert f"serve {agent.node}" == plan
        case Load(agent, spec):
            assert f"load {agent.node}" == plan
            assert spec is SPEC
        case Wait(reason, loading):
            assert plan == "wait"
            assert "no agent" in reason
            assert not loading


def test_models_are_spread() -> None:
    agents = fleet(a={}, b={"running_requests": 3}, c={})
    claimed = {OTHER: {"c": Assignment(node="c")}}
    view = seen(agents, {OTHER: held(a=ACTIVE)}, claimed)
    assert plan_for(view, MODEL) == Load(agents["b"], SPEC)


def test_a_load_that_another_has_claimed_is_waited_for() -> None:
    claimed = {MODEL: {"b": Assignment(node="b")}}
    view = seen(fleet(a={}, b={}), {}, claimed)
    plan = plan_for(view, MODEL)
    assert isinstance(plan, Wait)
    assert plan.loading
    assert "b is loading" in plan.reason
    serving = seen(fleet(a={}, b={}), {MODEL: held(a=ACTIVE)}, claimed)
    assert isinstance(plan_for(serving, MODEL), Serve)


def test_what_nobody_declared_is_not_found() -> None:
    with pytest.raises(ModelNotFound) as caught:
        plan_for(view_of(5, models={OTHER: SPEC}, agents=fleet(a={})), MODEL)
    assert caught.value.where == "model"


def test_before_the_first_snapshot_nothing_is_known() -> None:
    plan = plan_for(ClusterView(), MODEL)
    assert isinstance(plan, Wait)
    assert "has not answered" in plan.reason
