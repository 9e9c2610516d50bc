"""Recorded activity is what ``convert --tiers`` reads."""

from pathlib import Path

import torch

from lite_llm.checkpoint import load_rules
from lite_llm.experts import Activity, Routed, packing_of


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
