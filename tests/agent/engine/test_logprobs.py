"""Log probabilities are the model's own, and name the likeliest tokens in order."""

import math

import numpy as np
import pytest
import torch

from lite_llm.engine.logprobs import logprobs_of

LOGITS_V = np.array([0.5, 3.0, -1.0, 3.0, 1.0, -math.inf], np.float32)


@pytest.mark.parametrize(
    ("count", "top"), [(0, []), (1, [1]), (3, [1, 3, 4]), (9, [1, 3, 4, 0, 2, 5])]
)
def test_the_likeliest_come_first_and_equals_by_id(count: int, top: list[int]) -> None:
    found = logprobs_of(LOGITS_V, 4, count)
    assert [token for token, _ in found.top] == top
    assert found.token == 4
    assert dict([*found.top, (4, found.logprob)])[4] == found.logprob


def test_they_are_the_logarithm_of_the_softmax() -> None:
    expected_V = torch.tensor(LOGITS_V, dtype=torch.float64).log_softmax(dim=-1)
    for token in range(5):
        found = logprobs_of(LOGITS_V, token, 0).logprob
        assert found == pytest.approx(expected_V[token].item(), rel=1e-6)


def test_large_logits_overflow_nowhere() -> None:
    assert logprobs_of(np.array([3e38, 0.0, -3e38], np.float32), 0, 0).logprob == 0
