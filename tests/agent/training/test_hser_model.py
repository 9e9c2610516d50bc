"""What is trained is what is served: logits and greedy tokens under every TierSet."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from lite_llm.training import Evaluator, Shape, SourceFile, trained_tokenizer, write_checkpoint
from lite_llm.training.hser_model import Parameters, forward

TOKENS_L = torch.randint(1, 300, (30,), generator=torch.Generator().manual_seed(5))
TIER_SETS = [set(chosen) for count in (1, 2, 3) for chosen in combinations(range(3), count)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return trained_tokenizer([SourceFile("a.py", b"def f():\n    return 1\n" * 9)], 300)


@pytest.fixture
def served(tmp_path: Path, shape: Shape, parameters: Parameters, tokenizer: Tokenizer) -> Evaluator:
    write_checkpoint(tmp_path / "m", shape, parameters, tokenizer, name="m", version="m-v1.0.0")
    return Evaluator(tmp_path / "m")


def test_logits_are_those_of_the_serving_model(
    shape: Shape, parameters: Parameters, served: Evaluator
) -> None:
    for tiers in TIER_SETS:
        allowed_BI = torch.tensor([[number in tiers for number in range(3)]])
        trained = forward(shape, parameters, TOKENS_L[None], allowed_BI)
        torch.testing.assert_close(
            served.logits(TOKENS_L[None], tiers)[0], trained.logits_TV, atol=1e-4, rtol=0.0
        )


def test_greedy_tokens_are_those_of_the_serving_model(
    shape: Shape, parameters: Parameters, served: Evaluator
) -> None:
    for tiers in TIER_SETS:
        allowed_BI = torch.tensor([[number in tiers for number in range(3)]])
        ours = theirs = TOKENS_L[:8]
        for _ in range(12):
            logits_TV = forward(shape, parameters, ours[None], allowed_BI).logits_TV
            ours = torch.cat((ours, logits_TV[-1:].argmax(-1)))
            theirs = torch.cat((theirs, served.logits(theirs[None], tiers)[0, -1:].argmax(-1)))
        assert torch.equal(ours, theirs)


def test_sequences_of_a_batch_have_their_own_tier_sets(
    shape: Shape, parameters: Parameters
) -> None:
    allowed_BI = torch.tensor([[number in tiers for number in range(3)] for tiers in TIER_SETS])
    tokens_BL = TOKENS_L.expand(len(TIER_SETS), -1)
    together = forward(shape, parameters, tokens_BL, allowed_BI).logits_TV
    for one, logits_LV in zip(allowed_BI, torch.split(together, len(TOKENS_L)), strict=True):
        alone = forward(shape, parameters, TOKENS_L[None], one[None]).logits_TV
        torch.testing.assert_close(logits_LV, alone, atol=1e-4, rtol=0.0)
    assert not torch.allclose(together[: len(TOKENS_L)], together[-len(TOKENS_L) :], atol=1e-2)


def test_later_tokens_change_nothing_before_them(shape: Shape, parameters: Parameters) -> None:
    allowed_BI = torch.ones(1, 3, dtype=torch.bool)
    whole = forward(shape, parameters, TOKENS_L[None], allowed_BI).logits_TV
    part = forward(shape, parameters, TOKENS_L[None, :11], allowed_BI).logits_TV
    torch.testing.assert_close(whole[:11], part, atol=1e-4, rtol=0.0)
