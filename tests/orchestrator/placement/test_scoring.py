"""Who is chosen, and why: tables, properties, and how long a choice takes."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelRef, ModelState
from lite_llm.contracts.keyspace import AgentKey, key_of
from lite_llm.metastore import Entry, Written
from lite_llm.placement import (
    ClusterView,
    Load,
    PrefixIndex,
    Serve,
    Wait,
    Weights,
    Wish,
    advanced,
    explained,
    plan_for,
    prefix_hashes,
    view_of,
)
from lite_llm.proto.v1.agent_pb2 import (
    AgentStatus,
    Health,
    MediumStatus,
    Residency,
    TierResidency,
)
from lite_llm.proto.v1.generate_pb2 import Chat, ChatMessage, GenerateStart, TokenIds
from lite_llm.proto.v1.model_pb2 import Medium, ModelSource, ModelSpec
from lite_llm.wire import dumps, ref_to_proto
from lite_llm.wire.values import state_to_proto

MODEL = ModelRef("default", "wanted")
GB = 10**9


def status(node: str, **fields: Any) -> AgentStatus:
    fields = {"health": Health(healthy=True), **fields}
    return AgentStatus(node=node, **fields)


def memory(capacity: int, used: int = 0) -> MediumStatus:
    return MediumStatus(medium=Medium.MEDIUM_GPU, capacity_bytes=capacity, used_bytes=used)


def disk(speed: int) -> MediumStatus:
    return MediumStatus(medium=Medium.MEDIUM_NVME, read_bytes_per_second=speed)


def lying(
    node: str, state: ModelState = ModelState.ACTIVE, medium: int = 1, size: int = 0
) -> Residency:
    return Residency(
        node=node, state=state_to_proto(state), nearest=Medium.ValueType(medium),
        tiers=[TierResidency(tier="dense", bytes=size)],
    )  # fmt: skip


def fleet(
    *agents: AgentStatus,
    held: tuple[Residency, ...] = (),
    uri: str = "s3://store/m",
    spec: ModelSpec | None = None,
) -> ClusterView:
    declared = ModelSpec(ref=ref_to_proto(MODEL), source=ModelSource(uri=uri))
    if spec is not None:
        declared.MergeFrom(spec)
    return view_of(
        3,
        models={MODEL: declared},
        agents={agent.node: agent for agent in agents},
        residencies={MODEL: {residency.node: residency for residency in held}},
    )


def chosen(view: ClusterView, **wish: Any) -> str:
    plan = plan_for(view, MODEL, Wish(**wish))
    assert isinstance(plan, Serve | Load)
    return plan.agent.node


INIT = ModelState.INIT


@pytest.mark.parametrize(
    ("view", "wish", "node"),
    [
        pytest.param(
            fleet(status("a", waiting_requests=1), status("b"), held=(lying("a"), lying("b"))),
            {}, "b", id="who has no queue",
        ),
        pytest.param(
            fleet(status("a", waiting_requests=3), status("b"), held=(lying("a"), lying("b"))),
            {"hits": {"a": 1.0}}, "a", id="a whole prompt found is worth three in the queue",
        ),
        pytest.param(
            fleet(status("a", waiting_requests=5), status("b"), held=(lying("a"), lying("b"))),
            {"hits": {"a": 1.0}}, "b", id="and not five",
        ),
        pytest.param(
            fleet(status("a", waiting_requests=9), status("b"), held=(lying("a"), lying("b"))),
            {"hits": {"a": 1.0}, "weights": Weights(gamma=0.0)}, "a", id="as it is weighed",
        ),
        pytest.param(
            fleet(status("a"), status("b"), held=(lying("a"), lying("b"))),
            {"pending": {"a": 1}}, "b", id="what is on its way counts",
        ),
        pytest.param(
            fleet(status("a"), status("b", waiting_requests=50), held=(lying("a"), lying("b"))),
            {"shunned": {"a"}}, "b", id="who failed is the last",
        ),
        pytest.param(
            fleet(status("a"), held=(lying("a"),)), {"shunned": {"a"}}, "a", id="but not left out",
        ),
        pytest.param(
            fleet(status("a"), status("b"), held=(lying("b", INIT, 99, GB),), uri="file:///m"),
            {}, "a", id="a medium of a newer agent is far away",
        ),
        pytest.param(
            fleet(status("a"), status("b"), held=(lying("b", INIT, Medium.MEDIUM_DRAM, GB),)),
            {}, "b", id="where it sleeps, there it wakes",
        ),
        pytest.param(
            fleet(
                status("a"),
                status("b", waiting_requests=2, media=[disk(4 * GB)]),
                held=(lying("b", INIT, Medium.MEDIUM_NVME, 20 * GB),),
            ),
            {}, "b", id="a fast disk is nearer than the store",
        ),
        pytest.param(
            fleet(
                status("a", media=[disk(GB)]), status("b", media=[disk(8 * GB)]),
                held=(
                    lying("a", INIT, Medium.MEDIUM_NVME, 8 * GB),
                    lying("b", INIT, Medium.MEDIUM_NVME, 8 * GB),
                ),
            ),
            {}, "b", id="measured speeds decide",
        ),
        pytest.param(
            fleet(
                status("a", media=[memory(4 * GB)]), status("b", media=[memory(80 * GB)]),
                held=(lying("a", INIT, Medium.MEDIUM_NVME, 8 * GB),),
            ),
            {}, "b", id="where it can't fit, it does not go",
        ),
        pytest.param(
            fleet(
                status("a", media=[memory(80 * GB, 79 * GB)]),
                status("b", waiting_requests=9, media=[memory(80 * GB)]),
                status("c", draining=True),
                held=(lying("c", ModelState.FROZEN, Medium.MEDIUM_GPU, 8 * GB),),
            ),
            {}, "b", id="room before queue",
        ),
        pytest.param(
            fleet(
                status("a", labels={"zone": "1"}), status("b", labels={"zone": "2", "gpu": "h200"}),
                spec=ModelSpec(agent_labels={"zone": "2"}),
            ),
            {}, "b", id="where the model's labels are",
        ),
        pytest.param(
            fleet(
                status("a", media=[memory(4 * GB)]), status("b", media=[memory(80 * GB)]),
                spec=ModelSpec(memory_bytes=8 * GB),
            ),
            {}, "b", id="as much memory as is declared",
        ),
    ],
)  # fmt: skip
def test_choice(view: ClusterView, wish: dict[str, Any], node: str) -> None:
    assert chosen(view, **wish) == node


def test_ties_are_spread_and_repeatable() -> None:
    names = [f"n{number}" for number in range(8)]
    view = fleet(*map(status, names), held=tuple(map(lying, names)))
    choices = [chosen(view, seed=random.Random(number).getrandbits(64)) for number in range(800)]
    assert set(choices) == set(names)
    assert max(Counter(choices).values()) < 200
    again = fleet(*map(status, reversed(names)), held=tuple(map(lying, names)))
    assert all(chosen(view, seed=seed) == chosen(again, seed=seed) for seed in range(100))


def test_every_term_is_told() -> None:
    view = fleet(
        status("a", waiting_requests=2),
        status("b", draining=True),
        status("c", media=[memory(GB)]),
        held=(lying("a"), lying("b", ModelState.FROZEN, Medium.MEDIUM_GPU, 4 * GB)),
    )
    told = explained(view, MODEL, Wish(hits={"a": 0.5}))
    assert told.view_revision == 3
    assert [each.node for each in told.candidates] == ["a", "b", "c"]
    best = told.candidates[0]
    assert (best.cache_level, best.kv_hit_rate, best.queue_length, best.load_seconds) == (
        0, 0.5, 2, 0.0,
    )  # fmt: skip
    weights = best.weights
    assert best.score == pytest.approx(-weights.beta * 0.5 + weights.gamma * 2)
    assert [each.excluded for each in told.candidates] == ["", "draining", "too little memory"]


def test_labels_that_no_agent_has_are_told() -> None:
    view = fleet(status("a"), spec=ModelSpec(agent_labels={"gpu": "h200"}))
    plan = plan_for(view, MODEL)
    assert isinstance(plan, Wait)
    assert plan.reason == "no agent with gpu=h200 is healthy and takes new models"
    assert explained(view, MODEL, Wish()).candidates[0].excluded == "is not gpu=h200"


@given(st.data())
def test_the_chosen_one_has_the_least_score(data: st.DataObject) -> None:
    numbers = st.integers(0, 20)
    agents = [status(f"n{i}", waiting_requests=data.draw(numbers)) for i in range(5)]
    view = fleet(*agents, held=tuple(lying(agent.node) for agent in agents))
    hits = {agent.node: data.draw(numbers) / 20 for agent in agents}
    wish = Wish(hits=hits, seed=data.draw(st.integers(0, 2**64 - 1)))
    scores = {each.node: each.score for each in explained(view, MODEL, wish).candidates}
    assert scores[chosen(view, hits=hits, seed=wish.seed)] <= min(scores.values()) + 0.05


def texts(*words: str) -> GenerateStart:
    messages = [ChatMessage(role="user", content=word * 300) for word in words]
    return GenerateStart(model=ref_to_proto(MODEL), chat=Chat(messages=messages))


def test_a_conversation_finds_its_way_back() -> None:
    index = PrefixIndex()
    index.add(prefix_hashes(texts("hello")), "a")
    index.add(prefix_hashes(texts("hello", "again")), "a")
    index.add(prefix_hashes(texts("other")), "b")
    hits = index.hits(prefix_hashes(texts("hello", "again", "third")))
    assert set(hits) == {"a"}
    assert 0.5 < hits["a"] < 1
    assert index.hits(prefix_hashes(texts("other"))) == {"b": 1.0}
    assert index.hits(prefix_hashes(texts("unseen"))) == {}
    other = texts("other")
    other.tenant = "somebody else"
    assert index.hits(prefix_hashes(other)) == {}


def test_prompts_of_ids_are_known_too_and_short_ones_say_nothing() -> None:
    index = PrefixIndex()
    start = GenerateStart(token_ids=TokenIds(ids=range(1000)))
    index.add(prefix_hashes(start), "a")
    assert index.hits(prefix_hashes(start)) == {"a": 1.0}
    assert not prefix_hashes(GenerateStart(text="short"))
    assert index.hits([]) == {}


def test_the_index_is_bounded_and_forgets_the_oldest() -> None:
    index = PrefixIndex(max_entries=100)
    for number in range(200):
        index.add(prefix_hashes(GenerateStart(text=f"{number:03}" * 200)), f"n{number}")
        assert len(index) <= 100
    assert index.hits(prefix_hashes(GenerateStart(text="000" * 200))) == {}
    assert index.hits(prefix_hashes(GenerateStart(text="199" * 200))) == {"n199": 1.0}


def test_an_agent_is_known_by_few_blocks_that_many_have() -> None:
    index = PrefixIndex()
    hashes = prefix_hashes(GenerateStart(text="system prompt " * 100))
    for number in range(50):
        index.add(hashes, f"n{number}")
    assert len(index.hits(hashes)) == 4


def large_view() -> ClusterView:
    """1,000 agents and 1,000 models, 20 on each agent, one of which all of them serve."""
    models = [ModelRef("default", f"m{number}") for number in range(999)]
    agents = {
        f"n{number}": status(
            f"n{number}", waiting_requests=number % 7, media=[memory(80 * GB), disk(4 * GB)]
        )
        for number in range(1000)
    }
    residencies: dict[ModelRef, dict[str, Residency]] = {
        MODEL: {node: lying(node, size=GB) for node in agents}
    }
    for number, node in enumerate(agents):
        for offset in range(20):
            residencies.setdefault(models[(number * 7 + offset) % 999], {})[node] = lying(node)
    return view_of(
        9,
        models={model: ModelSpec(ref=ref_to_proto(model)) for model in (MODEL, *models)},
        agents=agents,
        residencies=residencies,
    )


def test_a_large_fleet_is_no_burden() -> None:
    """Loose bounds: what it takes on a quiet machine is in docs/benchmarks/gateway.md."""
    view = large_view()
    wish = Wish(hits={"n5": 0.5}, seed=7)

    def seconds_of(call: Any) -> float:
        began = time.process_time()
        for _ in range(20):
            call()
        return (time.process_time() - began) / 20

    assert seconds_of(lambda: plan_for(view, MODEL, wish)) < 0.02
    assert seconds_of(lambda: plan_for(view, ModelRef("default", "m3"), wish)) < 0.002
    key = key_of(AgentKey("n7"))
    event = Written(Entry(key, dumps(view.agents["n7"]), 1, 10, 2))
    assert seconds_of(lambda: advanced(view, event)) < 0.004
