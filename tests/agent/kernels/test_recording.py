"""A replay computes what its kernels would have, bit for bit, and on the numbers of the moment."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lite_llm.kernels import (
    Activation,
    Memory,
    NotRecordable,
    Recording,
    add,
    gated,
    linears,
    recorded,
    rms_norm,
    set_threads,
)

SIZES = [(1, 64, 96), (3, 80, 33), (40, 600, 300)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Block:
    """A feed-forward block with its norm, which keeps what it has between two runs nowhere."""

    def __init__(self, hidden: int, inner: int) -> None:
        self._norm_D = normal(hidden, seed=1)
        self._in = [(normal(inner, hidden, seed=seed), None) for seed in (2, 3)]
        self._out = [(normal(hidden, inner, seed=4), normal(hidden, seed=5))]

    def __call__(self, x_TD: Tensor) -> Tensor:
        gate_TF, up_TF = linears(rms_norm(x_TD, self._norm_D, 1e-6), self._in)
        (y_TD,) = linears(gated(gate_TF, up_TF, Activation.SILU), self._out)
        return add(x_TD, y_TD, scale=0.5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("rows", "hidden", "inner"), SIZES)
def test_a_replay_has_the_bits_of_its_kernels(
    rows: int, hidden: int, inner: int, threads: int
) -> None:
    set_threads(threads)
    blocks = [Block(hidden, inner), Block(hidden, inner + 5), Block(hidden, inner)]
    memory, x_TD = Memory(), torch.empty(rows, hidden)
    recording, y_TD = Recording(memory), x_TD
    for block in blocks:  # their tensors lie in the same places by turns
        memory.turn()
        with recorded(recording):
            y_TD = block(y_TD)
    for seed in (7, 8):
        x_TD.copy_(expected_TD := normal(rows, hidden, seed=seed))
        for block in blocks:
            expected_TD = block(expected_TD)
        recording.replay()
        assert torch.equal(y_TD, expected_TD)
    set_threads(torch.get_num_threads())


def test_what_is_no_kernel_is_refused_and_leaves_nothing_behind() -> None:
    x_TD, recording = normal(2, 32), Recording(Memory())
    with recorded(recording):
        y_TD = rms_norm(x_TD, None, 1e-6)
    with pytest.raises(NotRecordable, match=r"aten\.mul"), recorded(recording):
        rms_norm(x_TD, None, 1e-6) * 2
    assert recording.num_steps == 1
    recording.replay()
    assert torch.equal(y_TD, rms_norm(x_TD, None, 1e-6)), "and afterwards kernels run again"


def test_nothing_runs_while_it_is_recorded() -> None:
    x_TD = normal(2, 32)
    before_TD, recording = x_TD.clone(), Recording(Memory())
    with recorded(recording):
        rms_norm(x_TD, None, 1e-6)
        y_TD = rms_norm(x_TD, None, 1e-6)[:, :16]
    x_TD.zero_()
    recording.replay()
    assert (y_TD == 0).all()
    assert (before_TD != 0).all()


def test_recordings_of_one_memory_share_their_scratch() -> None:
    memory = Memory()
    first, second = Recording(memory), Recording(memory)
    assert first.scratch(5000) == second.scratch(3000) == first.scratch(5000)
    assert second.scratch(1 << 20) == Recording(memory).scratch(5000)
