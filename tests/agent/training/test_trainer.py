"""A run gives the same bytes, also if it was killed in between, and it learns."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lite_llm.contracts.errors import Conflict, Corrupt, Internal, InvalidSettings
from lite_llm.training import Recipe, read_log, train, trained
from lite_llm.training.batches import Batches
from lite_llm.training.optimizer import learning_rate
from lite_llm.training.snapshots import STATE_NAME

TOKENS_N = torch.randint(0, 300, (900,), generator=torch.Generator().manual_seed(8))


def run(recipe: Recipe, directory: Path, tokens_N: Tensor = TOKENS_N, steps: int = 99) -> None:
    for step in train(recipe, tokens_N, directory, corpus_digest="c", save_every=2):
        if step.step == steps:
            break


def test_two_runs_give_the_same_bytes(tmp_path: Path, recipe: Recipe) -> None:
    for name in ("one", "two"):
        run(recipe, tmp_path / name)
    one, two = ((tmp_path / name / STATE_NAME).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("stopped_after", [1, 2, 5])
def test_a_run_that_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, recipe: Recipe, stopped_after: int
) -> None:
    run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "stopped", steps=stopped_after)
    assert trained(tmp_path / "stopped", recipe, corpus_digest="c") is None
    run(recipe, tmp_path / "stopped")
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert (whole / STATE_NAME).read_bytes() == (stopped / STATE_NAME).read_bytes()
    losses = [[step.loss for step in read_log(directory)] for directory in (whole, stopped)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == recipe.steps


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path: Path, recipe: Recipe) -> None:
    program = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest, torch
from lite_llm.training import Recipe, train
recipe = Recipe(shape=conftest.SHAPE, steps=6, horizon=6, batch=4, peak_rate=1e-2, warmup_steps=2)
tokens = torch.randint(0, 300, (900,), generator=torch.Generator().manual_seed(8))
for step in train(recipe, tokens, Path(sys.argv[2]), corpus_digest="c", save_every=2):
    if step.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    run(recipe, tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "killed")],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    run(recipe, tmp_path / "killed")
    whole, killed_state = (tmp_path / name / STATE_NAME for name in ("whole", "killed"))
    assert whole.read_bytes() == killed_state.read_bytes()


def test_it_learns_what_repeats(tmp_path: Path, recipe: Recipe) -> None:
    tokens_N = torch.arange(10).repeat(60)
    run(replace(recipe, steps=25, batch=8), tmp_path, tokens_N)
    losses = [step.loss for step in read_log(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_load_balancing_loss_evens_out(tmp_path: Path, recipe: Recipe) -> None:
    uneven = {}
    for weight in (0.0, 2.0):
        directory = tmp_path / str(weight)
        changed = replace(recipe, steps=25, batch=8, balance=weight, final_balance=1.0)
        run(changed, directory, torch.arange(10).repeat(60))
        uneven[weight] = read_log(directory)[-1].balance
    assert uneven[2.0] < uneven[0.0]


def test_another_recipe_or_corpus_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    run(recipe, tmp_path, steps=2)
    with pytest.raises(Conflict, match="another run"):
        run(replace(recipe, seed=1), tmp_path)
    with pytest.raises(Conflict, match="another run"):
        list(train(recipe, TOKENS_N, tmp_path, corpus_digest="d"))


def test_a_state_that_is_none_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / STATE_NAME).write_bytes(b"nothing of the kind")
    with pytest.raises(Corrupt, match="no state"):
        run(recipe, tmp_path)


def test_a_last_line_of_the_log_that_was_cut_is_passed_over(tmp_path: Path, recipe: Recipe) -> None:
    run(recipe, tmp_path)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 7, "lo')
    assert [step.step for step in read_log(tmp_path)] == list(range(1, 7))
    assert json.loads(log.read_text().splitlines()[0])["step"] == 1


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(Internal, match="loss of step"):
        run(replace(recipe, peak_rate=1e30, clip_norm=1e30), tmp_path)


def test_threads_and_strictness_of_the_process_are_put_back(tmp_path: Path, recipe: Recipe) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    run(recipe, tmp_path)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_every_sequence_comes_once_an_epoch(recipe: Recipe) -> None:
    batches = Batches(torch.arange(900), recipe)
    epochs = []
    for epoch in range(2):
        numbers = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        epochs.append(sorted(batches._start(number) for number in numbers))
    for starts in epochs:
        gaps = {later - earlier for earlier, later in pairwise(starts)}
        assert gaps == {recipe.shape.context}
    batch = batches[0]
    assert torch.equal(batch.inputs_BL + 1, batch.targets_BL)
    assert batch.allowed_BI.any(1).all()


def test_tier_sets_have_their_shares(recipe: Recipe) -> None:
    batches = Batches(torch.arange(900), replace(recipe, batch=200))
    sets = [tuple(row) for step in range(5) for row in batches[step].allowed_BI.tolist()]
    everything = sets.count((True, True, True)) / len(sets)
    nearest = (sets.count((True, False, False)) + sets.count((True, True, False))) / len(sets)
    assert 0.45 < everything < 0.6
    assert 0.25 < nearest < 0.45
    assert (False, False, True) in sets


def test_too_few_tokens_are_refused(recipe: Recipe) -> None:
    with pytest.raises(InvalidSettings, match="too few"):
        Batches(torch.arange(40), recipe)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine(recipe: Recipe) -> None:
    longer = replace(recipe, steps=102, horizon=102, warmup_steps=2, peak_rate=1.0, final_rate=0.1)
    rates = [learning_rate(step, longer) for step in range(103)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[52] == pytest.approx(0.55)
    assert rates[102] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(rates[1:]))
    cut = [learning_rate(step, replace(longer, steps=60, cooldown=20)) for step in range(61)]
    assert cut[:41] == rates[:41]
    assert cut[50] == pytest.approx(rates[50] / 2)
    assert cut[60] == 0
