"""The view and the choice on it, of 1,000 agents and 1,000 models, beside the obvious way.

    python benchmarks/view.py [--rounds N] [--json]

The obvious way parses each heartbeat with protobuf's own JSON parser into a copy of a dictionary,
and scores every agent that serves a model for every request. Both do the same work in turns, in one
process; times are of its thread's processor, which other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

from google.protobuf import json_format

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Entry, Written
from lite_llm.placement import ClusterView, Weights, Wish, advanced, plan_for, view_of
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Health, Residency
from lite_llm.proto.v1.model_pb2 import Medium, ModelSource, ModelSpec
from lite_llm.wire import dumps, ref_to_proto

AGENTS, MODELS, EACH = 1000, 1000, 20
"""Each agent serves so many models, and one that all serve."""
GB = 10**9
HOT, FEW, COLD = (ModelRef("default", name) for name in ("hot", "m3", "cold"))
PERCENTILES = (50, 99)

Row = Callable[[int], object]


def status(number: int, beat: int = 0) -> AgentStatus:
    """A heartbeat as agents write it."""
    told = AgentStatus(
        node=f"n{number:04}", grpc_address="10.0.0.1:50051", http_address="10.0.0.1:8080",
        version="0.1.0", incarnation="0123456789ab", started_at=1_700_000_000, heartbeat=beat,
        health=Health(healthy=True), running_requests=(number + beat) % 7,
        waiting_requests=(number + beat) % 3,
    )  # fmt: skip
    for medium in (Medium.MEDIUM_GPU, Medium.MEDIUM_DRAM, Medium.MEDIUM_NVME):
        told.media.add(
            medium=medium, capacity_bytes=80 * GB, used_bytes=number, read_bytes_per_second=GB
        )
    return told


def residency(model: ModelRef, number: int, running: int = 0) -> Residency:
    """What an agent that serves a model writes about it."""
    held = Residency(
        node=f"n{number:04}", model=ref_to_proto(model), state=model_pb2.MODEL_STATE_ACTIVE,
        nearest=Medium.MEDIUM_GPU, checkpoint_digest="a" * 64, running_requests=running,
    )  # fmt: skip
    held.tiers.add(tier="dense", medium=Medium.MEDIUM_GPU, bytes=GB)
    return held


def fleet() -> ClusterView:
    """Everything healthy."""
    names = [ModelRef("default", f"m{number}") for number in range(MODELS - 2)]
    residencies: dict[ModelRef, dict[str, Residency]] = {HOT: {}}
    for number in range(AGENTS):
        residencies[HOT][f"n{number:04}"] = residency(HOT, number)
        for offset in range(EACH):
            model = names[(number * 7 + offset) % len(names)]
            residencies.setdefault(model, {})[f"n{number:04}"] = residency(model, number)
    source = ModelSource(uri="s3://store/m")
    names += [HOT, COLD]
    return view_of(
        1,
        models={each: ModelSpec(ref=ref_to_proto(each), source=source) for each in names},
        agents={f"n{number:04}": status(number) for number in range(AGENTS)},
        residencies=residencies,
    )


class Obvious:
    """What one would write first."""

    def __init__(self, view: ClusterView) -> None:
        self.agents = dict(view.agents)
        self.residencies = {model: dict(by_node) for model, by_node in view.residencies.items()}

    def hear(self, value: bytes) -> None:
        told = AgentStatus()
        json_format.Parse(value, told)
        self.agents = {**self.agents, told.node: told}

    def hear_of(self, model: ModelRef, value: bytes) -> None:
        told = Residency()
        json_format.Parse(value, told)
        by_node = {**self.residencies[model], told.node: told}
        self.residencies = {**self.residencies, model: by_node}

    def choose(self, model: ModelRef, seed: int) -> str:
        weights, scores = Weights(), []
        for node, held in self.residencies.get(model, self.agents).items():
            agent = self.agents[node]
            if not agent.health.healthy or agent.draining:
                continue
            seconds = 0.0
            if not isinstance(held, Residency) or held.state != model_pb2.MODEL_STATE_ACTIVE:
                speed = min(medium.read_bytes_per_second for medium in agent.media)
                seconds = 16 * GB / speed
            score = weights.gamma * agent.waiting_requests + weights.delta * seconds
            scores.append((score, agent.running_requests, hash((seed, node)), node))
        return min(scores)[-1]


def rows() -> dict[str, tuple[Row, Row]]:
    """By what is done: our way and the obvious one."""
    view, obvious = fleet(), Obvious(fleet())
    shown = [view]
    beats = [dumps(status(number, 1)) for number in range(AGENTS)]
    held = [dumps(residency(HOT, number, 1)) for number in range(AGENTS)]
    order = random.Random(7).sample(range(AGENTS), AGENTS)

    def written(key: AgentKey | ResidencyKey, value: bytes) -> None:
        revision = shown[0].revision + 1
        shown[0] = advanced(shown[0], Written(Entry(key_of(key), value, 1, revision, 1)))

    def beat(number: int) -> None:
        node = order[number % AGENTS]
        written(AgentKey(f"n{node:04}"), beats[node])

    def hold(number: int) -> None:
        node = order[number % AGENTS]
        written(ResidencyKey(HOT, f"n{node:04}"), held[node])

    def choose(model: ModelRef) -> tuple[Row, Row]:
        return (
            lambda seed: plan_for(shown[0], model, Wish(seed=seed)),
            lambda seed: obvious.choose(model, seed),
        )

    return {
        "a heartbeat": (beat, lambda number: obvious.hear(beats[order[number % AGENTS]])),
        "a residency": (hold, lambda number: obvious.hear_of(HOT, held[order[number % AGENTS]])),
        "a choice among 1,000 that serve": choose(HOT),
        "a choice among 20 that serve": choose(FEW),
        "a choice of who loads a cold model": choose(COLD),
    }


def milliseconds(call: Row, rounds: int) -> list[float]:
    """Of each call, ascending percentiles."""
    took = []
    for number in range(rounds):
        began = time.thread_time()
        call(number)
        took.append(1000 * (time.thread_time() - began))
    cuts = statistics.quantiles(took, n=100)
    return [cuts[percent - 1] for percent in PERCENTILES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = {}
    for name, (ours, theirs) in rows().items():
        milliseconds(ours, 50)
        figures[name] = {
            "ours": milliseconds(ours, arguments.rounds),
            "obvious": milliseconds(theirs, arguments.rounds),
        }
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{'ms of processor time':38} {'ours p50':>9} {'p99':>7} {'obvious p50':>12} {'p99':>7}")
    for name, figure in figures.items():
        (a, b), (c, d) = figure["ours"], figure["obvious"]
        print(f"{name:38} {a:9.3f} {b:7.3f} {c:12.3f} {d:7.3f}   {c / a:5.1f}x")


if __name__ == "__main__":
    main()
