"""The training loop: steps that depend on nothing but the state, saved now and then.

A step's batch is cut into shards, and each shard is one thread's alone: its bits don't depend on
how many cores there are, and no product waits for threads that are not running.
Legend: N tokens of the corpus.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor
from torch import are_deterministic_algorithms_enabled as deterministic
from torch.nn import functional

from lite_llm.contracts.errors import Internal
from lite_llm.training.batches import Batch, Batches
from lite_llm.training.hser_model import Parameters, forward, new_parameters
from lite_llm.training.optimizer import AdamW, learning_rate
from lite_llm.training.recipe import Recipe
from lite_llm.training.snapshots import State, load_state, run_id, save_state

LOG_NAME: Final = "log.jsonl"


@dataclass(frozen=True)
class Step:
    """What one step saw."""

    step: int
    """From 1."""
    loss: float
    """Nats a token."""
    balance: float
    """Sum over the gates of KL(usage || uniform), mean of the layers."""
    rate: float
    norm: float
    """Of all gradients, before clipping."""
    seconds: float
    """Of computing, over all runs so far."""


def train(
    recipe: Recipe,
    tokens_N: Tensor,
    directory: Path,
    *,
    corpus_digest: str,
    save_every: int = 50,
) -> Iterator[Step]:
    """Do the steps that ``directory``'s state has not done yet, one as one iterates.

    Killed at any moment, the next call goes on from the last state, to the same weights. Raises
    :class:`Conflict` if the directory holds another run and :class:`Internal` for a loss that is
    no number. The state is saved every ``save_every`` steps and at the end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    run = run_id(recipe, corpus_digest)
    parameters = new_parameters(recipe.shape, recipe.seed)
    optimizer = AdamW(parameters, recipe)
    groups = {"weights": parameters, "first": optimizer.first, "second": optimizer.second}
    done = 0
    if (state := load_state(directory, run)) is not None:
        done = state.step
        _restore(groups, state)
    batches = Batches(tokens_N, recipe)
    past = _truncated_log(directory, done)
    seconds = past[-1].seconds if past else 0.0
    with (directory / LOG_NAME).open("a") as log, _Shards(recipe, parameters) as shards:
        for step in range(done, recipe.steps):
            started = time.perf_counter()
            loss, balance = shards.gradients(batches[step], step)
            norm = optimizer.update(step)
            seconds += time.perf_counter() - started
            rate = learning_rate(step, recipe)
            seen = Step(step + 1, loss, balance, rate, norm, round(seconds, 3))
            log.write(json.dumps(asdict(seen)) + "\n")
            if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
                log.flush()
                save_state(directory, State(step + 1, groups), run)
            yield seen


def trained(directory: Path, recipe: Recipe, *, corpus_digest: str) -> Parameters | None:
    """The weights of a run that has come to its end; None of one that has not."""
    state = load_state(directory, run_id(recipe, corpus_digest))
    if state is None or state.step < recipe.steps:
        return None
    return dict(state.groups["weights"])


def read_log(directory: Path) -> list[Step]:
    """Every step so far, in order."""
    path = directory / LOG_NAME
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]  # a kill may have cut the last line
    return [Step(**json.loads(line)) for line in whole.splitlines()]


class _Shards:
    """Computes gradients, a thread for each shard of a batch."""

    def __init__(self, recipe: Recipe, parameters: Parameters) -> None:
        self._recipe, self._parameters = recipe, parameters
        self._pool = ThreadPoolExecutor(recipe.shards, "training", torch.set_num_threads, (1,))

    def __enter__(self) -> Self:
        self._threads, self._strict = torch.get_num_threads(), deterministic()
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        # Every element of ours is written before it is read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)
        torch.use_deterministic_algorithms(self._strict)

    def gradients(self, batch: Batch, step: int) -> tuple[float, float]:
        """Leave them at the parameters; the loss and the gates' unevenness."""
        weight = _balance_weight(self._recipe, step)
        parts = list(self._pool.map(partial(self._one, weight), batch.split(self._recipe.shards)))
        shards = len(parts)
        loss = sum(part_loss for part_loss, _, _ in parts) / shards
        balance = sum(part_balance for _, part_balance, _ in parts) / shards
        if not math.isfinite(loss):
            raise Internal(f"the loss of step {step} is {loss}", where="training")
        for number, tensor in enumerate(self._parameters.values()):
            # In the order of the shards, whichever was ready first.
            tensor.grad = torch.stack([part[2][number] for part in parts]).sum(0) / shards
        return loss, balance

    def _one(self, weight: float, batch: Batch) -> tuple[float, float, tuple[Tensor, ...]]:
        own = {name: one.detach().requires_grad_() for name, one in self._parameters.items()}
        out = forward(self._recipe.shape, own, batch.inputs_BL, batch.allowed_BI)
        loss = functional.cross_entropy(out.logits_TV, batch.targets_BL.flatten())
        gradients = torch.autograd.grad(loss + weight * out.balance, tuple(own.values()))
        return loss.item(), out.balance.item(), gradients


def _balance_weight(recipe: Recipe, step: int) -> float:
    """It falls in a line from ``balance`` to its ``final_balance`` share."""
    left = 1 - step / recipe.horizon
    return recipe.balance * (recipe.final_balance + (1 - recipe.final_balance) * left)


@torch.no_grad()
def _restore(groups: dict[str, Parameters], state: State) -> None:
    for group, named in groups.items():
        for name, tensor in named.items():
            tensor.copy_(state.groups[group][name])


def _truncated_log(directory: Path, done: int) -> list[Step]:
    """Without the steps after the last state, which will be done again."""
    kept = [step for step in read_log(directory) if step.step <= done]
    lines = "".join(json.dumps(asdict(step)) + "\n" for step in kept)
    (directory / LOG_NAME).write_text(lines)
    return kept
