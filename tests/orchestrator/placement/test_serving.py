"""The view's index after any changes is that of a view made anew, and chooses as a look at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelRef, ModelState
from lite_llm.contracts.keyspace import AgentKey, ModelKey, ResidencyKey, key_of
from lite_llm.metastore import Deleted, Entry, Event, Written
from lite_llm.placement import ClusterView, Weights, Wish, advanced, serving, snapshot
from lite_llm.placement.scoring import best, best_serving
from lite_llm.placement.sharing import SharedMap, changed, shared
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Health, Residency, TierResidency
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import dumps, ref_to_proto
from lite_llm.wire.values import state_to_proto

MODELS = [ModelRef("default", name) for name in ("a", "b")]
NODES = [f"n{number}" for number in range(6)]
small = st.integers(0, 3)


@pytest.fixture(autouse=True, scope="module")
def _two_are_many() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "SMALL", 2)
        yield


@st.composite
def entries(draw: st.DrawFn) -> tuple[str, bytes | None]:
    """A key of the store and what is written there; None is its end."""
    model, node = draw(st.sampled_from(MODELS)), draw(st.sampled_from(NODES))
    match draw(st.integers(0, 4)):
        case 0:
            return key_of(ModelKey(model)), dumps(ModelSpec(ref=ref_to_proto(model)))
        case 1 | 2:
            status = AgentStatus(
                node=node,
                waiting_requests=draw(small),
                running_requests=draw(small),
                draining=draw(st.booleans()),
                health=Health(healthy=True),
            )
            is_there = draw(st.booleans())
            return key_of(AgentKey(node)), dumps(status) if is_there else None
        case _:
            state = draw(st.sampled_from([ModelState.ACTIVE, ModelState.ACTIVE, ModelState.INIT]))
            held = Residency(
                model=ref_to_proto(model), node=node, state=state_to_proto(state),
                tiers=[TierResidency(tier="dense", bytes=draw(small))],
            )  # fmt: skip
            return key_of(ResidencyKey(model, node)), draw(st.sampled_from([dumps(held), None]))


def grown(changes: list[tuple[str, bytes | None]]) -> tuple[ClusterView, ClusterView]:
    """A view that saw each change, and one that sees what came of them."""
    view, stored = snapshot([], 1), dict[str, bytes]()
    for revision, (key, value) in enumerate(changes, 2):
        event: Event = Deleted(key, revision)
        if value is not None:
            event = Written(Entry(key, value, 1, revision, 1))
        view = advanced(view, event)
        stored = {**stored, key: value} if value is not None else stored
        if value is None:
            stored.pop(key, None)
    made = [Entry(key, value, 1, 2, 1) for key, value in stored.items()]
    return view, snapshot(made, 1 + len(changes))


@given(st.lists(entries(), max_size=40))
def test_a_view_that_grew_is_one_made_anew(changes: list[tuple[str, bytes | None]]) -> None:
    grew, anew = grown(changes)
    assert grew == anew


nodes = st.sampled_from(NODES)
wishes = st.fixed_dictionaries(
    {
        "shunned": st.sets(nodes, max_size=2),
        "hits": st.dictionaries(nodes, st.sampled_from([0.02, 0.25, 1.0]), max_size=2),
        "pending": st.dictionaries(nodes, st.integers(1, 3), max_size=3),
        "seed": st.integers(0, 2**64 - 1),
        "weights": st.sampled_from([Weights(), Weights(gamma=0.0), Weights(gamma=0.02)]),
    }
)


@given(st.lists(entries(), min_size=10, max_size=60), wishes, st.sets(nodes, max_size=2))
def test_the_index_chooses_whom_a_look_at_all_would(
    changes: list[tuple[str, bytes | None]], wish: dict[str, Any], left_out: set[str]
) -> None:
    spec = (key_of(ModelKey(MODELS[0])), dumps(ModelSpec(ref=ref_to_proto(MODELS[0]))))
    view, _ = grown([spec, *changes])
    candidates = [
        view.facts[node]
        for node, held in view.held.get(MODELS[0], {}).items()
        if held.serves
        and node in view.facts
        and not view.facts[node].excluded
        and node not in left_out
    ]
    chosen = best(view, MODELS[0], candidates, Wish(**wish))
    quick = best_serving(view, MODELS[0], Wish(**wish), left_out)
    assert quick == (chosen and chosen.node)


def test_a_shared_map_is_a_map_and_keeps_the_old_one() -> None:
    old = shared({f"k{number}": number for number in range(200)})
    assert isinstance(old, SharedMap)
    new = changed(changed(old, "k7", 70), "k8", None)
    assert (old["k7"], old.get("k8"), len(old)) == (7, 8, 200)
    assert (new["k7"], new.get("k8"), new.get("k8", 1), len(new)) == (70, None, 1, 199)
    assert "k8" in old
    assert "k8" not in new
    assert sorted(new) == sorted(new.keys()) == sorted({f"k{n}" for n in range(200)} - {"k8"})
    assert sum(new.values()) == sum(range(200)) - 7 - 8 + 70
    assert dict(new.items()) == dict(new)
    assert new != old
    assert changed(new, "absent", None) == new


def test_a_small_map_stays_a_dictionary_until_it_grows() -> None:
    view: Any = {}
    for number in range(100):
        view = changed(view, number, number)
        assert isinstance(view, dict) == (number < 64)
    assert view == {number: number for number in range(100)}
