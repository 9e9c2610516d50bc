"""Recorded activity is what ``convert --tiers`` reads."""

from pathlib import Path

import torch

from lite_llm.checkpoint import load_rules
from lite_llm.experts import Activity, Routed, packing_of
from lite_llm.experts.traces import TraceRecorder


def test_counts_become_an_activations_file(tmp_path: Path) -> None:
    activity = Activity({1: 4, 3: 4})
    routed = Routed(torch.tensor([[0, 2], [2, 3]]), torch.ones(2, 2))
    packing = packing_of(routed)
    activity.record(1, routed, packing)
    activity.record(1, routed, packing)
    activity.record(3, routed, packing)
    activity.write(tmp_path / "activations.json")
    rules = tmp_path / "tiers.yaml"
    rules.write_text("activations: activations.json\ntiers: [{name: all, experts: rest}]\n")
    assert load_rules(rules).activations == {"1": [2, 0, 4, 2], "3": [1, 0, 2, 1]}


def test_a_trace_of_a_serving_model_gives_the_same_counts() -> None:
    activity = Activity({1: 4})
    routed = Routed(torch.tensor([[0, 2], [2, -1]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]]), False)
    activity.record(1, routed, packing_of(routed))
    recorder = TraceRecorder({1: 4}, 2)
    recorder.begin_step([0, 1], [False, True])
    recorder.record(1, routed.experts_TK.numpy(), routed.weights_TK.numpy())
    assert Activity.of(recorder.trace()).counts == activity.counts == {1: [1, 0, 2, 0]}
